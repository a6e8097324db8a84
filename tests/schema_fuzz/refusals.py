"""What may be refused although the description's schemas allow it: each kind has a reason why no schema says so."""

import re
from typing import Final

# which sentences, from their beginnings, by the reason
REFUSALS: Final[dict[str, tuple[str, ...]]] = {
    "one field's bounds depend on what another has": (
        r"training_file: give either training_file or examples",
        r"file: give either a file or a job",
        r"models\[\d+\]: .* is named twice",
        r"metrics\[\d+\]: .* is named twice",
        r"gate\[\d+\]: (goes by|names) ",
        r"memory: compares adapters with their base model",
        r"gate: none of the metrics says which way is better",
        r"(model|against): says whose score is sorted by",
        r"prompt: give a prompt, variables or messages",
        r"(variables|messages): there is (prompt|variables) already",
        r"inputs: give a prompt, or variables",
        r"variables: there is a prompt in inputs already",
        r"parameters\.apply_chat_template: needs inputs",
        r"(parameters\.)?response_format: there is more than one schema",
        r"(parameters\.)?response_format\.type: text has no schema",
        r"(parameters\.)?response_format\.\S+: give the schema that the answer is to follow",
        r"(regex|parameters\.grammar): response_format says already what the answer must be",
        r"parameters\.grammar\.value: must be a regular expression, as a string",
        r"(parameters\.)?best_of: .*the best can be told only from whole answers",
        r"parameters\.best_of: (several answers cannot have one seed|greedy answers are all the same)",
        r"parameters\.decoder_input_details: .*a stream's events have no place",
        r"best_of: is \d+, but n asks for",
        r"(n|best_of): \d+ answers to each of \d+ prompts are",
        r"top_logprobs: is told with logprobs only",
        r"max_tokens: max_completion_tokens says something else",
        r"hyperparameters: given here and in method\.supervised",
        r"learning_rate: given together with learning_rate_multiplier",
        r"early_stopping_patience: \d+ evaluations without improvement cannot come before",
        r"the job needs at least \S+ GB of memory",
    ),
    "what is stored is no matter of a schema": (
        r"(training_file|validation_file): no such file",
        r"(training_file|validation_file): \S+ cannot be trained on",
        r"(training_file|validation_file): \S+ holds a job's results",
        r"continue_from: no fine-tuned model or checkpoint is called",
        r"lora\.\w+: \S+, which continue_from names, has ",
        r"prompt_format: (examples|\S+ \(\w+\)) holds ",
        r'train_on: "last_assistant" chooses among',
        r"(early_stopping_patience|load_best_model_at_end): goes by the loss of held-out completions",
        r"training_file: no example is left to train on",
        r"after: no fine-tuned model is called",
        r"after: .* is no (event|checkpoint) of ",
        r"after: the evaluation has no row",
        r"(sort|model|against): the evaluation (has no metric|does not ask)",
        r"(file|job): (no such file|\S+ cannot be evaluated on|\S+ holds a job's results|an evaluation needs at least)",
        r"models\[\d+\]: (no such model|\S+ is a model of)",
        r"models: .* is served by vLLM|models: no engine answers for",
        r"metrics\[\d+\]: (there is no metric|\w+ is not defined for any of the rows)",
        r"this Idempotency-Key was used with another request body",
    ),
    "only the model tells, its tokenizer or its context": (
        r"the (prompt|text) has (at least )?\d+ tokens",
        r"\w+: has [\d,]+ bytes, and this model takes at most",
        r"(prompt|logit_bias|stop_token_ids): \d+ is not a token of this model",
        r"variables: this model has no prompt format",
        r"max_tokens: the prompt.s \d+ tokens and these \d+ need",
        r"max_length: the context of ",
        r"lora\.target_modules: ",
    ),
    "the text is in a language that is parsed": (
        r"prompt_format: must be the JSON of an object with prompt and completion",
        r"prompt_format\.(prompt|completion): ",
        r"(training_file|examples\[\d+\]): (line|example)",
        r"gate\[\d+\]: (character \d+|the gate is empty)",
        r"(regex|(parameters\.)?(response_format|grammar)\S*): (cannot be followed|is not JSON|must be a JSON schema)",
        r"(regex|(parameters\.)?(response_format|grammar)\S*): only an empty answer follows this",
        r"(parameters\.)?(response_format|grammar)\S*: (must not be empty|lists and objects are nested)",
        r".*: the file (is a|begins|does not begin)",
        r".*: the name ends in ",
    ),
}


def is_allowed(message: str) -> bool:
    """Tell whether this is the sentence of a refusal that no schema can forbid."""
    return any(re.match(says, message, re.DOTALL) for kind in REFUSALS.values() for says in kind)
