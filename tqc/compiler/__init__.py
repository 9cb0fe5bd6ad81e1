"""The compile driver: frontend, passes, schedules and artifact put together."""

from .compile import compile_model, plan_model
from .options import CompileOptions

__all__ = ["CompileOptions", "compile_model", "plan_model"]
