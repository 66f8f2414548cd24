"""`push_to_hub` of teachers and students that were loaded from a folder."""

from pathlib import Path


class FromFolder:
    """A model that knows the `folder` it was loaded from; `None` if it was made in memory or loaded from the Hub."""

    folder: Path | None = None

    def remember(self, name_or_path: str | Path) -> None:
        """Set `folder`, if the name is that of a folder."""
        self.folder = Path(name_or_path).resolve() if Path(name_or_path).is_dir() else None

    def push_to_hub(
        self, repo_id: str, base_model_id: str | None = None, private: bool | None = None, pictures: bool = True
    ) -> str:
        """
        Push the folder that this model was loaded from to the Hub, with a model card, as `scalpel-hf push` does. Of a
        committee, all members are pushed.

        Args:
            repo_id: `org/name`; the repository is created if it doesn't exist.
            base_model_id: Hub id of a teacher's base model, needed if the base was loaded from a folder.
            private: whether a new repository is private.
            pictures: show predictions for a few test frames in the card. The data's licence must allow it.

        Returns the commit's URL. Raises `ValueError` if this model was not loaded from a folder, or its weights have
        changed since.
        """
        from scalpel_hf.hub.push_loaded import push_loaded  # push_loaded.py imports this package

        return push_loaded(self, repo_id, base_model_id, private=private, pictures=pictures)
