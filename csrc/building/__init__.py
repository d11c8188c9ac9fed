"""How the compiled modules are built, with pybind11 and ninja; ``setup.py`` says which."""
