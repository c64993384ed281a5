"""The configuration file: reading it, overriding parts of it, and saying clearly what is wrong with it."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from aplt.common.config import NAMED_INITS, BaseRunConfig, DataConfig, Section
from aplt.common.errors import ConfigError
from aplt.trainer.config import PAPER, AnyMethodConfig, APLTConfig, FixMatchConfig

DATA = "data.yaml"
"""In a prepared folder: the settings that it was prepared with."""
PREPARING = (
    *("root", "adapter", "subset", "options", "labels", "group_regex"),
    *("num_frames", "frames_per_segment", "clip_size", "fit"),
)
"""Those of them that decide which clips are in it, and how they were decoded."""


class ResourcesConfig(Section):
    """What one service asks of the cluster."""

    cpus: Annotated[float, Field(ge=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0


class ClusterConfig(Section):
    """Where the two services run."""

    address: str = "local"
    """local: a private Ray cluster on this machine for the time of the run; else the address of a running one."""
    trainer: ResourcesConfig = ResourcesConfig()
    labeler: ResourcesConfig = ResourcesConfig()


class RunConfig(BaseRunConfig):
    """The whole file."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Letters, digits, dots, dashes and underscores; the first a letter or digit."""
    cluster: ClusterConfig = ClusterConfig()
    method: AnyMethodConfig = APLTConfig()

    @model_validator(mode="after")
    def _plannable(self) -> Self:
        self.plan()
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        trains_head_offline = isinstance(self.method, FixMatchConfig) and self.method.uses_labels
        if self.labeler.strategy == "parametric" and not trains_head_offline:
            raise ValueError(
                "labeler.strategy: parametric makes labels for method.name: fixmatch with method.offline_labels: true, "
                f"not for {self.method.name} as it is set here; use sskm or kmeans, or that method"
            )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the checked configuration in `path` with `a.b=c` overrides applied; paths in it are relative to the file.

    Raises:
        ConfigError: naming the setting, what is allowed there, and the nearest name to what was written.
    """
    return config_of(read_yaml(path), overrides, folder=path.parent, source=str(path))


def config_of(values: Mapping[str, Any], overrides: Sequence[str], *, folder: Path, source: str) -> RunConfig:
    """Return the checked configuration of nested settings with `a.b=c` overrides; relative paths start at `folder`.

    Raises:
        ConfigError: naming the setting, and `source`.
    """
    whole = copy.deepcopy(dict(values))
    for override in overrides:
        _override(whole, override)
    return _resolved(parse_config(whole, source=source), folder)


def load_data_config(path: Path, overrides: Sequence[str] = ()) -> DataConfig:
    """Return the `data` section of a configuration file, or the one that a prepared folder was made with.

    Raises:
        ConfigError: it is neither, or a setting is wrong.
    """
    if not path.is_dir():
        return load_config(path, overrides).data
    recorded = path / DATA
    if not recorded.is_file():
        raise ConfigError(f"{path} is no prepared folder (it has no {DATA}): `aplt data prepare` makes one")
    data = data_config(read_yaml(recorded).get("data") or {}, overrides, folder=path, source=str(recorded))
    return data.model_copy(update={"prepared": path.resolve(), "local": None})


def data_config(values: dict[str, Any], overrides: Sequence[str], *, folder: Path, source: str) -> DataConfig:
    """Return a checked `data` section; relative paths in it start at `folder`.

    Raises:
        ConfigError: naming the setting.
    """
    return config_of({"run": "data", "data": values}, overrides, folder=folder, source=source).data


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted settings, later ones over earlier ones, as sections in sections; paths become text, as in YAML."""
    sections: dict[str, Any] = {}
    for name, value in values.items():
        *outer, key = name.split(".")
        section = sections
        for part in outer:
            section = section.setdefault(part, {})
        section[key] = str(value) if isinstance(value, Path) else value
    return sections


def parse_config(values: dict[str, Any], *, source: str) -> RunConfig:
    """Return `values` as a checked configuration; `source` is named in errors."""
    values = _with_empty_sections(values, RunConfig)
    if isinstance(values.get("method"), dict):
        values["method"] = {"name": APLTConfig().name, **values["method"]}
        if values["method"]["name"] == APLTConfig().name and values["method"].get("preset") == "paper":
            values = _filled(values, PAPER)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(source, item) for item in error.errors())) from None


def check_paths(config: RunConfig) -> None:
    """Raise ConfigError, naming the setting, if something that the configuration points at is not there."""
    data, init = config.data, config.model.init
    if not data.root.is_dir():
        raise ConfigError(f"data.root: {data.root} is not a folder; it must hold the clips")
    if data.labels is not None and not data.labels.is_file():
        raise ConfigError(f"data.labels: {data.labels} is not a file; it must be a table of clips and labels")
    if init not in NAMED_INITS and not Path(init).exists():
        raise ConfigError(
            f"model.init: {init} is not there; expected {', '.join(NAMED_INITS)}, or the path of a weight file or of a "
            "published checkpoint"
        )
    if data.group_regex is not None:
        try:
            groups = re.compile(data.group_regex).groups
        except re.error as error:
            raise ConfigError(f"data.group_regex: {data.group_regex!r} is no regular expression: {error}") from None
        if groups < 1:
            raise ConfigError(f"data.group_regex: {data.group_regex!r} has no group (...) around the subject's name")


def method_configs() -> dict[str, type[BaseModel]]:
    """Return the configuration class of each method by the name that chooses it."""
    options: tuple[type[BaseModel], ...] = get_args(get_args(AnyMethodConfig)[0])
    return {get_args(option.model_fields["name"].annotation)[0]: option for option in options}


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice; YAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        double = {key for key in keys if keys.count(key) > 1}
        if double:
            raise yaml.constructor.ConstructorError(
                problem=f"{', '.join(map(str, double))} occurs twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds. Raises ConfigError if it is not there, is not YAML or holds no sections."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; `aplt init --data CLIPS` writes a first configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections such as `data:` and `method:`, not {type(values).__name__}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ConfigError(f"--set {override}: expected a.b=value, such as --set schedule.epochs=20")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value") from None
    if name == "method.name" and isinstance(values.get("method"), dict):
        # Another method: what the file says about the old one's own settings does not concern it.
        values["method"] = {key: kept for key, kept in values["method"].items() if key in _method_settings(value)}
    *sections, key = name.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    values[key] = value


def _with_empty_sections(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return `values` with {} for sections that are in the file but hold only comments, which YAML reads as null."""
    filled = dict(values)
    for name, field in model.model_fields.items():
        section = RunConfig if name == "method" else _section_type(field.annotation)
        if name not in values or section is None:
            continue
        if values[name] is None:
            filled[name] = {}
        elif isinstance(values[name], dict) and name != "method":
            filled[name] = _with_empty_sections(values[name], section)
    return filled


def _filled(values: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with dotted `defaults` for what they do not say."""
    filled = dict(values)
    for name, default in defaults.items():
        section, key = name.split(".")
        if isinstance(given := filled.get(section, {}), dict):
            filled[section] = {key: default, **given}
    return filled


def _resolved(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration with every relative path made absolute, so that any process in any folder can use it."""

    def absolute(path: Path | str) -> Path:
        return (folder / Path(path).expanduser()).resolve()

    data, model, url = config.data, config.model, config.store.url
    data = data.model_copy(
        update={
            "root": absolute(data.root),
            "prepared": data.url or absolute(data.prepared),
            "local": None if data.local is None else absolute(data.local),
            "labels": None if data.labels is None else absolute(data.labels),
        }
    )
    model = model.model_copy(
        update={
            "init": model.init if model.init in NAMED_INITS else str(absolute(model.init)),
            "weights_dir": None if model.weights_dir is None else absolute(model.weights_dir),
        }
    )
    store = config.store.model_copy(update={"url": url if "://" in url else str(absolute(url))})
    return config.model_copy(update={"data": data, "model": model, "store": store})


def _explain(source: str, error: Any) -> str:
    """Return one line for one of pydantic's findings."""
    path = [str(part) for part in error["loc"]]
    # A choice between methods puts the chosen name into the path; people wrote no such key.
    shown = ".".join(path[:1] + path[2:] if path[0:1] == ["method"] else path)
    where = f"{source}: {shown}" if shown else source
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden" and (names := _section_at(path[:-1])) is not None:
        return f"{where}: unknown setting{_nearest(path[-1], names)}; allowed here: {', '.join(sorted(names))}"
    if kind == "missing":
        return f"{where}: is missing, and has no default"
    if kind == "literal_error":
        allowed = [part.strip(" '") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{where}: {given!r} is not allowed{_nearest(str(given), allowed)}; allowed: {', '.join(allowed)}"
    if kind == "union_tag_invalid":
        name, methods = given["name"], sorted(method_configs())
        return f"{where}.name: {name!r} is not a method{_nearest(str(name), methods)}; allowed: {', '.join(methods)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}: must be a section with settings of its own, got the value {given!r}"
    if kind == "string_pattern_mismatch":
        return f"{where}: {given!r} is not allowed; expected 1 to 100 letters, digits, '.', '_' and '-', a letter first"
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f"{where}: must be text; put it in quotes: '{str(given).lower()}'"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{where}: {message}" + ("" if isinstance(given, dict | BaseModel) else f" (got {given!r})")


def _nearest(name: str, allowed: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def _section_at(path: Sequence[str]) -> set[str] | None:
    """Return the settings of the section at `path`, or None if it is not a section."""
    if path and path[0] == "method":
        return _method_settings(path[1]) if len(path) == 2 else None
    model: type[BaseModel] = RunConfig
    for part in path:
        field = model.model_fields.get(part)
        section = None if field is None else _section_type(field.annotation)
        if section is None:
            return None
        model = section
    return set(model.model_fields)


def _section_type(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _method_settings(name: object) -> set[str]:
    """Return the settings of a method; if there is no such method, of all methods."""
    methods = method_configs()
    chosen = [methods[name]] if isinstance(name, str) and name in methods else list(methods.values())
    return {setting for option in chosen for setting in option.model_fields}
