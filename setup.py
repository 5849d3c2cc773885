"""What pyproject.toml cannot say: a wheel holds the lessons, which are in notebooks/ in a
checkout.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
EDITIONS = {"notebooks": "lessons", "notebooks/solutions": "lessons/solutions"}


class BuildWithLessons(build_py):
    """Copy the lessons into the package that is built; an editable install reads them where they
    are.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder, inside in EDITIONS.items():
            target = Path(self.build_lib) / "hmq_lab" / inside
            target.mkdir(parents=True, exist_ok=True)
            for lesson in sorted((HERE / folder).glob("[0-9]*.ipynb")):
                shutil.copyfile(lesson, target / lesson.name)


setup(cmdclass={"build_py": BuildWithLessons})
