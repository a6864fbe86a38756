"""Any `nn.Module` as a list of calls: loading the user's file, tracing it on meta tensors, timing its calls."""

__all__: list[str] = []
