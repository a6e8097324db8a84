"""What the parameters of text-generation-inference's generate mean: which model, which prompt, which tokens."""

import secrets
from typing import Final

from app.generation import constraints
from app.generation.tgi.schemas import GenerateCreate, Parameters
from core.errors import InvalidParameter, UnsupportedParameter
from core.serving.generation import Constraint, Conversation, PromptSource, SamplingParams, Turn, Variables
from core.settings import Settings

MAX_NEW_TOKENS: Final = 100  # text-generation-inference's default


def model_name(request: GenerateCreate, settings: Settings) -> str:
    """Give the model that a request names, or the deployment's only base model.

    Raises:
        InvalidParameter: it names none, and there are several base models.
    """
    adapter_id = request.parameters.adapter_id if request.parameters else None
    return only_base_model(settings, "parameters.adapter_id") if adapter_id is None else adapter_id


def only_base_model(settings: Settings, param: str) -> str:
    """Give the base model of a deployment that has one.

    Raises:
        InvalidParameter: there are several.
    """
    if len(settings.base_models) != 1:
        raise InvalidParameter(param, f"name a fine-tuned model, or one of {', '.join(settings.base_models)}")
    return settings.base_models[0]


def prompt_of(request: GenerateCreate) -> PromptSource:
    """Give the prompt that a request has in one of two fields.

    Raises:
        InvalidParameter: it has none, or both.
    """
    is_chat = request.parameters is not None and request.parameters.apply_chat_template
    if request.inputs is not None and request.variables is not None:
        raise InvalidParameter("variables", "there is a prompt in inputs already; send only one of the two")
    if request.inputs is not None:
        return Conversation(messages=(Turn(role="user", content=request.inputs),)) if is_chat else request.inputs
    if is_chat:
        raise InvalidParameter("parameters.apply_chat_template", "needs inputs, which become the user's message")
    if request.variables is not None:
        return Variables(variables=request.variables)
    raise InvalidParameter("inputs", "give a prompt, or variables for the prompt format of the model's training")


def sampling_of(parameters: Parameters) -> SamplingParams:
    """Read the parameters as text-generation-inference does.

    Greedy unless ``do_sample`` is set or a parameter is given that only sampling has a use for;
    temperature 0 is greedy too. Where it samples without a seed, one is drawn, so that the answer
    can tell it.

    Raises:
        InvalidParameter: what the answer must be is said twice, or cannot be read.
    """
    temperature = _temperature_of(parameters)
    seed = parameters.seed
    if seed is None and temperature > 0:
        seed = secrets.randbits(63)
    return SamplingParams(
        max_tokens=MAX_NEW_TOKENS if parameters.max_new_tokens is None else parameters.max_new_tokens,
        temperature=temperature,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        top_k=parameters.top_k,
        repetition_penalty=1.0 if parameters.repetition_penalty is None else parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        presence_penalty=parameters.presence_penalty or 0.0,
        seed=seed,
        stop=parameters.stop,
        ignore_end=bool(parameters.ignore_eos_token),
        top_logprobs=max(parameters.top_n_tokens or 0, parameters.return_k_alternatives or 0),
        prompt_logprobs=bool(parameters.decoder_input_details),
        constraint=_constraint_of(parameters),
    )


def best_of(parameters: Parameters) -> int:
    """Give how many answers are generated, of which the likeliest is told.

    Raises:
        InvalidParameter: several are asked for that would all be the same.
    """
    wanted = 1 if parameters.best_of is None else parameters.best_of
    if wanted > 1 and parameters.seed is not None:
        raise InvalidParameter("parameters.best_of", "several answers cannot have one seed; leave seed out")
    if wanted > 1 and _temperature_of(parameters) == 0:
        raise InvalidParameter("parameters.best_of", "greedy answers are all the same; set do_sample or temperature")
    return wanted


def refuse_in_stream(parameters: Parameters) -> None:
    """Refuse what only a whole answer can tell.

    Raises:
        UnsupportedParameter: something of this is asked for.
    """
    if parameters.best_of is not None and parameters.best_of > 1:
        raise UnsupportedParameter("parameters.best_of", "the best can be told only from whole answers; do not stream")
    if parameters.decoder_input_details:
        raise UnsupportedParameter(
            "parameters.decoder_input_details", "a stream's events have no place for them; do not stream"
        )


def _temperature_of(parameters: Parameters) -> float:
    asks_to_sample = (
        parameters.do_sample
        or parameters.temperature not in (None, 1.0)
        or parameters.top_k is not None
        or parameters.top_p not in (None, 1.0)
    )
    return (1.0 if parameters.temperature is None else parameters.temperature) if asks_to_sample else 0.0


def _constraint_of(parameters: Parameters) -> Constraint | None:
    constraint = constraints.of_response_format(parameters.response_format, "parameters.response_format")
    if parameters.grammar is None:
        return constraint
    if constraint is not None:
        raise InvalidParameter("parameters.grammar", "response_format says already what the answer must be")
    return constraints.of_grammar(parameters.grammar, "parameters.grammar")
