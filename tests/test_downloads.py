"""Weights that are downloaded: a cached file needs no network, and without one the refusal names the cure at once."""

import hashlib
import socket
import threading
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file

from spade_kit import load_backbone
from spade_kit.features import downloads, sources

HUB = "convnext_atto.d2_in1k"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """A machine that has downloaded nothing, without proxies, and that does not wait between attempts."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(downloads, "getproxies", dict)


@pytest.fixture
def connections(monkeypatch):
    """The addresses that are connected to; all of them answer."""
    seen = []

    def connect(address, timeout):
        seen.append(address)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(downloads, "_ask", lambda origin: None)
    return seen


def refuse(problem, *_given, **_options):
    raise problem


# ---- without a network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto.d2_in1k", "seresnet18"])
def test_unavailable_weights_are_never_replaced_by_random_ones(name):
    with pytest.raises(ConnectionError, match=f"weights of '{name}' are not .*backbone='efficientnet_lite0'"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["resnet18", HUB])
def test_without_a_network_nothing_is_asked_of_a_hub_and_no_network_is_built(name, monkeypatch):
    """A hub's client would try for most of a minute."""
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("the network was built"))
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: pytest.fail("the network was built"))
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(.*: .*pass the name of a file as weights="):
        load_backbone(name)


def test_a_host_that_does_not_answer_is_not_waited_for(monkeypatch):
    """Looking up its name may take as long as it likes."""
    over = threading.Event()
    monkeypatch.setattr(downloads, "_PATIENCE", 0.01)
    monkeypatch.setattr(socket, "create_connection", lambda *_: over.wait() and refuse(OSError("too late")))
    with pytest.raises(ConnectionError, match=r"\(download\.pytorch\.org does not answer\)"):
        load_backbone("resnet18")
    over.set()


@pytest.fixture
def mute():
    """The address of a host on this machine that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("name", ["resnet18", HUB])
def test_a_proxy_that_accepts_and_never_answers_is_not_waited_for(monkeypatch, mute, name):
    monkeypatch.setattr(downloads, "_SILENCE", 0.1)
    monkeypatch.setattr(downloads, "getproxies", lambda: {"https": f"http://{mute}"})
    monkeypatch.setenv("https_proxy", f"http://{mute}")
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(127\.0\.0\.1(:| does not answer)"):
        load_backbone(name)


@pytest.mark.parametrize("on_hub", [False, True])
def test_a_host_without_tls_is_named_as_the_reason(monkeypatch, on_hub):
    """A portal answers in plain text."""
    client = pytest.importorskip("httpx").Client(trust_env=False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: client)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            while server.fileno() >= 0:
                with suppress(OSError), server.accept()[0] as visitor:
                    visitor.recv(100)
                    visitor.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://portal.example\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        origin = downloads.Origin(f"https://127.0.0.1:{server.getsockname()[1]}/weights", None, on_hub)
        with pytest.raises(ConnectionError, match=r"^127\.0\.0\.1: TLS fails with (WRONG_VERSION|RECORD_LAYER)"):
            downloads._reach(origin)


@pytest.mark.parametrize("limit", [None, 3.0])
def test_a_download_that_stalls_ends(monkeypatch, limit):
    """The limit for sockets is that of the user before and after."""
    monkeypatch.setattr(downloads, "_SILENCE", 0.1)
    monkeypatch.setattr(socket, "getdefaulttimeout", lambda: limit)
    set_to = []
    monkeypatch.setattr(socket, "setdefaulttimeout", set_to.append)
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(stalled\)"):
        downloads.fetch("resnet18", downloads.Origin(None, None), partial(refuse, TimeoutError("stalled")))
    assert set_to == [limit or 0.1, limit]


@pytest.mark.parametrize(
    ("proxies", "bypassed", "expected"),
    [
        ({}, False, ("huggingface.co", 443)),
        ({"https": "http://gate.example:3128"}, False, ("gate.example", 3128)),
        ({"https": "gate.example:3128"}, False, ("gate.example", 3128)),
        ({"all": "socks5://gate.example:1080"}, False, ("gate.example", 1080)),
        ({"https": "http://gate.example:3128"}, True, ("huggingface.co", 443)),
        ({"http": "http://gate.example:3128"}, False, ("huggingface.co", 443)),
    ],
)
def test_the_host_is_reached_through_the_proxy_if_there_is_one(monkeypatch, connections, proxies, bypassed, expected):
    monkeypatch.setattr(downloads, "getproxies", lambda: proxies)
    monkeypatch.setattr(downloads, "proxy_bypass", lambda host: bypassed)
    downloads.check_origin(HUB)
    assert connections == [expected]


def test_a_proxy_that_is_no_address_is_named_in_the_error(monkeypatch):
    monkeypatch.setattr(downloads, "getproxies", lambda: {"https": "http://gate.example:port"})
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(Port could not be cast.*'port'\)"):
        load_backbone("resnet18")


def test_a_mirror_of_the_hub_is_asked_instead(monkeypatch, connections):
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.example:8080")
    assert downloads.check_origin(HUB).url == f"http://mirror.example:8080/timm/{HUB}"
    assert connections == [("mirror.example", 8080)]


def test_the_hubs_own_setting_for_offline_use_is_respected(monkeypatch, connections):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(HF_HUB_OFFLINE is set\)"):
        load_backbone(HUB)
    assert connections == []


# ---- with one --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("connections")
def test_a_download_says_what_comes_from_where_and_how_large_it_is(monkeypatch, capsys):
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    assert load_backbone("resnet18").weights == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (  # 11.7 million numbers of 4 bytes
        "Downloading the weights of 'resnet18' (about 47 MB) from "
        "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    )


@pytest.mark.usefixtures("connections")
def test_older_names_in_files_of_torchvision_are_understood(monkeypatch):
    """The published files of its DenseNets have names that torch no longer allows."""
    network = torchvision.models.densenet121()
    old = {sources.re.sub(r"(norm|conv)([12])\.", r"\1.\2.", name): x for name, x in network.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: old)
    loaded = load_backbone("densenet121").module.network.state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in network.state_dict().items())


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.usefixtures("connections")
def test_a_gated_model_says_how_to_get_it(monkeypatch, status):
    class GatedRepoError(Exception):
        response = SimpleNamespace(status_code=status)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", partial(refuse, GatedRepoError("no entry")))
    with pytest.raises(
        ConnectionError,
        match=rf"accepted their licence \(GatedRepoError\)\. Accept it at https://huggingface\.co/timm/{HUB} and run "
        r"'hf auth login', or download the file there and pass weights='model\.safetensors'\.",
    ):
        load_backbone(HUB)


@pytest.mark.usefixtures("connections")
def test_any_error_of_a_hub_names_the_cure(monkeypatch):
    class HubError(Exception):
        """Like the errors of some hubs: not derived from the usual built-in ones."""

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", partial(refuse, HubError("418")))
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(418\)\. Use backbone='efficientnet_lite0'"):
        load_backbone(HUB)


# ---- downloaded before -----------------------------------------------------------------------------------------------


def cached_file(folder, name):
    """Where torchvision or timm keep a downloaded file, with random weights in it, under the name of their hash."""
    weights = folder / "weights"
    save_file(timm.create_model(name).state_dict(), weights)
    blob = folder / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    repository = folder / f"models--{timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}"
    for part in (folder / "blobs", repository / "refs", repository / "snapshots/1"):
        part.mkdir(parents=True)
    weights.rename(blob)
    (repository / "refs/main").write_text("1")
    (repository / "snapshots/1/model.safetensors").symlink_to(blob)
    return blob


def test_downloaded_weights_are_found_without_the_network_and_damage_is_named(tmp_path, monkeypatch):
    name = "convnext_atto.d2_in1k"
    assert sources.must_download(name)
    blob = cached_file(tmp_path, name)
    assert not sources.must_download(name)
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", None)
    assert load_backbone(name).weights == f"timm {name}"
    whole = blob.read_bytes()
    for damaged in (whole[:-7], whole[:-7] + b"?" + whole[-6:], b""):
        blob.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"weights of '{name}' are damaged \(its SHA-256 .*{blob.name}\. Delete"):
            load_backbone(name)


def test_a_damaged_file_of_torchvision_is_not_a_failed_download(tmp_path):
    file = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    assert sources.must_download("resnet18")
    for content in (b"", b"not found", b"PK" * 500):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged \(its SHA-256 .* instead of f37072fd.*f37072fd\.pth\. Delete"):
            load_backbone("resnet18")
    assert not sources.must_download("resnet18")


def test_a_file_without_a_hash_that_cannot_be_read_is_damaged_too(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"damaged \(UnpicklingError\): .*weights\.pth\. Delete") as refused:
        downloads.fetch("x", downloads.Origin(None, file), lambda: torch.load(file, weights_only=True))
    assert "weights_only" not in str(refused.value)  # torch's advice would run code from the file


def test_only_names_that_are_downloaded_need_the_network():
    assert not sources.must_download("efficientnet_lite0")
