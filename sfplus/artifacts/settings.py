"""The settings that decide a result, as opposed to those that only say how it is computed or stored."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

NO_EFFECT_ON_RESULT: dict[str, Any] = {"affects_result": False}
"""`json_schema_extra` of a field that changes no result, for example how often a checkpoint is written."""

ADDED_LATER: dict[str, Any] = {"default_affects_result": False}
"""`json_schema_extra` of a field that came after artefacts were made, whose default gives the same results as before.

Fingerprints leave it out while it has its default, so that these artefacts stay valid.
"""


def deciding_settings(settings: BaseModel) -> dict[str, Any]:
    """Return the settings that decide the result, ready for JSON: what fingerprints and digests cover.

    Fields that are marked `NO_EFFECT_ON_RESULT` are left out, those marked `ADDED_LATER` at their default, and those
    that pydantic excludes from dumps, such as the paths of inputs, whose content counts instead.
    """
    return settings.model_dump(mode="json", exclude=fields_without_effect(settings) | _later_defaults(settings))


def fields_without_effect(settings: BaseModel) -> set[str]:
    """Return the names of the fields that are marked `NO_EFFECT_ON_RESULT`."""
    fields = type(settings).model_fields
    return {name for name, field in fields.items() if field.json_schema_extra == NO_EFFECT_ON_RESULT}


def _later_defaults(settings: BaseModel) -> set[str]:
    """Return the names of the fields that are marked `ADDED_LATER` and have their default."""
    fields = type(settings).model_fields
    later = [name for name, field in fields.items() if field.json_schema_extra == ADDED_LATER]
    return {name for name in later if getattr(settings, name) == fields[name].default}
