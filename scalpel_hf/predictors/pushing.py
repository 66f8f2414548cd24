"""What teachers and students have in common: from the folder that they were loaded from to the Hub."""

from pathlib import Path


class FromFolder:
    """`folder` is where a model was loaded from; `None` where it was made in memory or is of the Hub."""

    folder: Path | None = None

    def remember(self, name_or_path: str | Path) -> None:
        """Keep where it was loaded from, if that is a folder."""
        self.folder = Path(name_or_path).resolve() if Path(name_or_path).is_dir() else None

    def push_to_hub(
        self, repo_id: str, base_model_id: str | None = None, private: bool | None = None, pictures: bool = True
    ) -> str:
        """
        Push the run's folder that this was loaded from to the Hub, with a card, as `scalpel-hf push` does; a committee
        goes whole.

        Args:
            repo_id: `org/name`; the repository is made if it isn't there.
            base_model_id: Hub id of a teacher's base, where it was loaded from a folder.
            private: whether a repository that is made is private.
            pictures: show predictions on a few test frames in the card; the data's licence must allow it.

        Returns the commit's URL. Raises `ValueError` where this was not loaded from a folder, or has other weights now.
        """
        from scalpel_hf.hub.push_loaded import push_loaded  # which is made of teachers and students

        return push_loaded(self, repo_id, base_model_id, private, pictures)
