"""Put the recipes of `configuration/` into the wheel; setup.cfg has everything else."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install reads the folder itself
            folder = Path(self.build_lib, "modeling_clipscratch", "configuration")
            self.mkpath(str(folder))
            for recipe in Path("configuration").glob("*.yaml"):
                self.copy_file(str(recipe), str(folder / recipe.name))


setup(cmdclass={"build_py": BuildWithRecipes})
