"""What is tried, the most telling first, and what it needs; limits are for a GPU, and far above what a part takes."""

from typing import Final

from benchmarks.gpu_check.parts import Part

_HERE: Final = "benchmarks.gpu_check"

PARTS: Final = (
    Part(
        "device",
        "its memory can be read and it multiplies",
        f"{_HERE}.serving_speed:probe_device",
        40,
    ),
    Part(
        "serving: own blocks",
        "the engine computes the logits of transformers, in float32 and in bfloat16",
        f"{_HERE}.serving_correctness:compare_blocks",
        60,
    ),
    Part(
        "serving: CUDA graphs",
        "replayed steps of 200 mixes of adapters give the logits of steps without",
        f"{_HERE}.serving_correctness:compare_graphs",
        60,
        needs_cuda=True,
    ),
    Part(
        "training: gradients",
        "a step's gradient is that of its definition, in float32 and in bfloat16",
        f"{_HERE}.training_correctness:compare_gradients",
        60,
    ),
    Part(
        "training: packed attention",
        "attention over segments of any length is as near to float64 as torch's own, result and gradients",
        f"{_HERE}.training_correctness:compare_attention",
        40,
    ),
    Part(
        "training: full size",
        "takes no more memory than is estimated; speed and MFU at several sizes of a micro-batch",
        f"{_HERE}.training_speed:measure_ours",
        220,
    ),
    Part(
        "serving: full size",
        "is measured: steps of any rows and adapters, tax, prompts, first token, share of the roof",
        f"{_HERE}.serving_speed:measure_steps",
        200,
    ),
    Part(
        "serving: mixes",
        "every row of 200 mixes gets its own adapter's answer from a whole engine, with graphs and without",
        f"{_HERE}.serving_mixes:judge_mixes",
        90,
        needs=("prometheus_client", "structlog", "llguidance"),
    ),
    Part(
        "training: resume",
        "a run that is stopped and resumed ends where an undisturbed one does",
        f"{_HERE}.training_correctness:compare_resumed",
        90,
    ),
    Part(
        "training: one rank",
        "one rank alone sums its gradients over NCCL, or gloo on a CPU, and nothing changes",
        f"{_HERE}.training_correctness:sum_up_alone",
        30,
    ),
    Part(
        "training: 4 bits",
        "an adapter learns over a base in 4 bits",
        f"{_HERE}.training_correctness:learn_in_four_bits",
        60,
        needs=("bitsandbytes",),
        needs_cuda=True,
    ),
    Part(
        "rivals: HF Trainer",
        "is measured on the rows and the model of training at full size",
        f"{_HERE}.rivals:measure_hf_trainer",
        120,
    ),
    Part(
        "rivals: generate",
        "transformers' generate is measured on the model of serving at full size",
        f"{_HERE}.rivals:measure_generate",
        60,
    ),
    Part(
        "rivals: TRL",
        "is measured on the rows and the model of training at full size",
        f"{_HERE}.rivals:measure_trl",
        120,
        needs=("trl", "datasets"),
    ),
    Part(
        "rivals: vLLM",
        "is measured on the model of serving at full size, with adapters and without",
        f"{_HERE}.rivals:measure_vllm",
        150,
        needs=("vllm",),
        needs_cuda=True,
    ),
    Part(
        "training: techniques",
        "is measured without each technique",
        f"{_HERE}.training_speed:measure_techniques",
        400,
    ),
)
