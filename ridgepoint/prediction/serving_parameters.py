"""What serving costs beside the operators of its steps: parameters of a stack's host, fitted to whole servers."""

from typing import Annotated

from ridgepoint.prediction.physics.parameters import Parameters, within

__all__ = ["ServingParameters"]


class ServingParameters(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of the host and of the front end, and how far a server's times lie from their prediction."""

    step_s: Annotated[float, within(1e-6, 3e-3, "what a step adds to its operators: scheduling, sampling, launch")] = (
        3e-4
    )
    layer_s: Annotated[
        float, within(1e-7, 5e-5, "what a layer adds to its operators in a step that is a CUDA graph")
    ] = 5e-6
    sequence_s: Annotated[float, within(1e-7, 1e-4, "host time that each running sequence adds to a step")] = 1e-5
    prompt_layer_s: Annotated[
        float, within(1e-5, 2e-3, "host time of a layer in a step with a prompt, which no CUDA graph covers")
    ] = 5e-4
    token_s: Annotated[float, within(1e-6, 5e-4, "front end: time to hand one token to its user")] = 8e-5
    prompt_token_s: Annotated[float, within(1e-8, 5e-5, "time to read one token of a prompt, beside the others'")] = (
        5e-6
    )
    request_s: Annotated[
        float, within(1e-3, 0.2, "front end: from the user to the scheduler and back, of each request")
    ] = 0.03
    late_share: Annotated[
        float, within(0.05, 1.0, "share of a busy front end's delay that falls before the first token")
    ] = 0.6
    tpot_sigma: Annotated[
        float, within(0.01, 1.5, "log error of TPOT, on configurations that the fit had not seen")
    ] = 0.15
    ttft_sigma: Annotated[float, within(0.01, 1.5, "log error of TTFT with an idle front end, likewise")] = 0.3
    ttft_busy_sigma: Annotated[float, within(0.01, 2.0, "log error of TTFT with a busy front end, likewise")] = 0.6
