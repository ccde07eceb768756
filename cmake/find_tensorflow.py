"""Print 'version;folder' of the TensorFlow installed beside this interpreter, without importing it.

Importing TensorFlow takes seconds; its metadata does not. Prints nothing when there is none.
"""

from importlib import metadata, util

spec = util.find_spec("tensorflow")
if spec is not None and spec.submodule_search_locations:
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-rocm"):
        try:
            print(f"{metadata.version(name)};{next(iter(spec.submodule_search_locations))}")
            break
        except metadata.PackageNotFoundError:
            continue
