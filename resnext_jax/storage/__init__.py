"""Files: where cached things lie, downloads, and writing a file whole or not at all."""

from resnext_jax.storage.cache import cache_directory, is_own, private_cache_directory
from resnext_jax.storage.download import download
from resnext_jax.storage.whole import write_whole

__all__ = ["cache_directory", "download", "is_own", "private_cache_directory", "write_whole"]
