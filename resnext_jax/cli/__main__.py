"""`python -m resnext_jax.cli`, where the script `resnext-jax` is not on the path."""

from resnext_jax.cli import main

if __name__ == "__main__":
    main()
