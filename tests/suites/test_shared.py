"""Results that several share: behind a URL, and with others who run the same at the same time."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from advbench import files, remote
from advbench.bench import RunRequest, Workshop
from advbench.cli import main
from advbench.cli.main import request_of
from advbench.errors import InvalidConfig, ResultClaimed, StorageError
from advbench.remote import Remote
from advbench.results import ResultStore
from advbench.suites import Done, Event, run_locally
from advbench.suites.cluster import _collect
from advbench.suites.work import work
from advbench.types import Status


def command(*words: str | Path | int) -> Any:
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.fixture
def url() -> Iterator[str]:
    import fsspec

    yield "memory://results/of-mine"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def noise(factories: str, url: str) -> Callable[[], Any]:
    """Runs noise with its results behind the URL."""
    words = ("run", "--attack", "noise", "--target", f"{factories}:plain", "--limit", "10", "--epsilon", "0.1")
    return lambda: command(*words, "--results", url)


class TestUrl:
    def test_a_result_is_found_by_a_machine_that_has_no_copy(
        self, noise: Callable[[], Any], url: str, home: Path
    ) -> None:
        first = noise()
        assert first.exit_code == 0, first.output
        shutil.rmtree(home / "results")
        assert "answered from the store" in noise().output
        shutil.rmtree(home / "results")
        (key,) = ResultStore(url).keys()
        assert key[:10] in command("show", key[:6], "--results", url).output
        assert "holds" in command("verify", key, "--results", url).output
        assert "noise" in command("compare", "--results", url).output
        counted = command("query", "select count(*) as n from samples", "--results", url, "--format", "csv")
        assert counted.output.split() == ["n", "10"]

    def test_the_record_comes_last_and_makes_the_result(
        self, noise: Callable[[], Any], url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listed: list[tuple[str, int]] = []
        write = Remote.write

        def watched(self: Remote, path: str, content: bytes) -> None:
            listed.append((path.split("/")[-1], len(ResultStore(url).keys())))
            write(self, path, content)

        monkeypatch.setattr(Remote, "write", watched)
        assert noise().exit_code == 0
        stored = [name for name, _ in listed if name != ".probe"]
        assert stored == ["examples.safetensors", "perturbed.safetensors", "samples.parquet", "record.json"]
        assert {count for _, count in listed} == {0}
        assert len(ResultStore(url).keys()) == 1

    def test_what_was_changed_there_is_not_believed(self, noise: Callable[[], Any], url: str, home: Path) -> None:
        noise()
        store = ResultStore(url)
        (record,) = store.records()
        Remote(url).write(f"{record.key}/samples.parquet", b"other")
        assert store.samples(record).num_rows == 10  # the copy here is what was stored
        shutil.rmtree(home / "results")
        with pytest.raises(StorageError, match="was changed"):
            store.samples(record)
        Remote(url).remove(f"{record.key}/record.json")
        assert store.keys() == []

    def test_what_is_not_served_is_refused(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfig, match="cannot use nowhere://x"):
            ResultStore("nowhere://x")
        for odd in ("memory://rem[1]", "memory://rem?", "memory://*/rem"):
            with pytest.raises(InvalidConfig, match=f"cannot use {re.escape(odd)}: fsspec takes"):
                ResultStore(odd)
        suite = tmp_path / "suite.toml"
        suite.write_text(
            'title = "One"\n[defaults]\ntarget = "resnet18"\nepsilon = 0.1\n[methods.noise]\nattack = "noise"\n'
        )
        for options, words in (
            (["--results", url], "one process alone"),
            (["--address", "here:1"], "--address means nothing with --executor local"),
            (["--executor", "ray", "--workers", "2"], "--workers means nothing with --executor ray"),
        ):
            refused = command("suite", "run", suite, "--results", tmp_path, *options)
            assert refused.exit_code == 2
            assert words in refused.output
        pytest.importorskip("ray")
        refused = command("suite", "run", suite, "--results", tmp_path, "--executor", "ray", "--address", "127.0.0.1:9")
        assert refused.exit_code == 2
        assert "no Ray cluster at '127.0.0.1:9'" in refused.output


def test_what_one_machine_made_another_takes_from_behind_the_homes_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained targets, surrogates and warm-ups: made once, though the machines share no folder."""
    url = f"file://{tmp_path}/home"
    monkeypatch.setenv("ADVBENCH_HOME", url)
    options = {
        "target-epochs": 1, "target-images": 40, "fit-images": 40, "limit": 20, "epsilon": 0.3, "epochs": 1,
        "encoder": "resnet18", "surrogate-epochs": 1, "warm-up-epochs": 1, "discriminator-learns": "answer",
    }  # fmt: skip
    words = ["run", "--attack", "pgn-b", "--target", "resnet18", *(f"--{name}={of}" for name, of in options.items())]

    def run_on(machine: str) -> tuple[str, ResultStore]:
        monkeypatch.setattr(files, "user_cache_path", lambda _: tmp_path / machine)
        store = ResultStore(tmp_path / machine / "results")
        answer = command(*words, "--results", store.location)
        assert answer.exit_code == 0, answer.output
        return answer.output, store

    first, one = run_on("one")
    assert "trained target" in first
    assert "trained surrogate" in first
    names = {name: len(list((tmp_path / "home" / name).iterdir())) for name in ("classifiers", "shared")}
    assert names["classifiers"] >= 2
    assert names["shared"] == 1
    second, other = run_on("other")
    assert "trained target" not in second
    assert "trained surrogate" not in second
    figures = [store.records()[0].metrics for store in (one, other)]
    accuracies = {each.model_dump_json(exclude={"fit_seconds", "ms_per_image"}) for each in figures if each is not None}
    assert len(accuracies) == 1
    assert not list((tmp_path / "home" / ".claims").rglob("*-*")), "nothing stays claimed"


def test_object_storage_holds_results_and_the_home(
    factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines that share nothing but a bucket: S3's interface, served by moto."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "ACCESS_KEY_ID": "any",
        "SECRET_ACCESS_KEY": "any",
        "ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        import fsspec

        fsspec.filesystem("s3").mkdir("bucket")
        monkeypatch.setenv("ADVBENCH_HOME", "s3://bucket/home")
        words = ["run", "--attack", "noise", "--epsilon", "0.1", "--limit", "20", "--results", "s3://bucket/results"]
        words += ["--target", "resnet18", "--target-epochs", "1", "--target-images", "20"]
        outputs = []
        for machine, seed in (("one", 0), ("other", 0), ("other", 1)):
            monkeypatch.setattr(files, "user_cache_path", lambda _, machine=machine: tmp_path / machine)
            answer = command(*words, "--seed", seed)
            assert answer.exit_code == 0, answer.output
            outputs.append(answer.output)
        assert ["trained target" in output for output in outputs] == [True, False, True]
        assert ["answered from the store" in output for output in outputs] == [False, True, False]
        assert "noise" in command("compare", "--results", "s3://bucket/results").output
        one, other = Remote("s3://bucket/results"), Remote("s3://bucket/results")
        with one.claim("key", wait=False), pytest.raises(ResultClaimed), other.claim("key", wait=False):
            pass
        assert not [path for path in fsspec.filesystem("s3").find("bucket") if ".claims" in path]
    finally:
        server.stop()


class TestClaim:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(remote, "STALE_SECONDS", 0.3)
        monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.4)
        monkeypatch.setattr(remote, "RENEW_SECONDS", 0.05)

    def test_one_has_it_and_others_wait(self, url: str) -> None:
        ends = []

        def hold(seconds: float) -> None:
            with Remote(url).claim("key", wait=True):
                time.sleep(seconds)
                ends.append(seconds)

        with Remote(url).claim("key", wait=True):
            waiting = threading.Thread(target=hold, args=(0.0,))
            waiting.start()
            with pytest.raises(ResultClaimed, match=socket.gethostname()), Remote(url).claim("key", wait=False):
                pass
            time.sleep(1.0)  # three times as long as a claim that is not renewed would last
            assert ends == []
        waiting.join()
        assert ends == [0.0]

    def test_a_claim_goes_with_its_process_or_grows_stale_with_its_machine(self, url: str) -> None:
        gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        Remote(url).write(".claims/key", f"{socket.gethostname()} {gone.stdout.decode().strip()} x".encode())
        with Remote(url).claim("key", wait=False):
            pass
        Remote(url).write(".claims/key", b"another-machine 1 x")
        started = time.monotonic()
        with Remote(url).claim("key", wait=True):
            assert time.monotonic() - started > 0.3

    def test_one_of_two_takes_a_dead_claim_over(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both judge it dead at once, and one comes to act on that after the other has."""
        Remote(url).write(".claims/key", b"left")
        both, holders, most = threading.Barrier(2), [], []

        def judge(claim: bytes) -> bool:
            if claim == b"left":
                time.sleep(0.2 * both.wait())
            return claim == b"left"

        def hold(number: int) -> None:
            with Remote(url).claim("key", wait=True):
                holders.append(number)
                time.sleep(0.5)
                most.append(len(holders))
                holders.remove(number)

        monkeypatch.setattr(remote, "_is_dead", judge)
        users = [threading.Thread(target=hold, args=(number,)) for number in range(2)]
        for each in users:
            each.start()
        for each in users:
            each.join()
        assert most == [1, 1]

    def test_who_lost_a_claim_leaves_it_to_who_has_it(self, url: str) -> None:
        with Remote(url).claim("key", wait=False):
            Remote(url).write(".claims/key", b"another-machine 1 x")
            time.sleep(0.2)  # four renewals
        assert Remote(url).read([".claims/key"]) == {".claims/key": b"another-machine 1 x"}


@pytest.mark.filterwarnings("ignore")
def test_what_a_task_of_a_cluster_raises_is_told_from_a_death() -> None:
    errors = pytest.importorskip("ray").exceptions
    raised = errors.RayTaskError("run", "traceback", ValueError("no such thing"), proctitle="", pid=1, ip="here")
    futures: dict[Any, Any] = {"first": raised, "second": errors.WorkerCrashedError()}

    def get(what: Any) -> Any:
        if what in futures:
            raise futures[what]
        return []

    ray = SimpleNamespace(wait=lambda waited, **_: (waited, []), get=get, exceptions=errors)
    board = SimpleNamespace(take=SimpleNamespace(remote=lambda: "events"))

    def submit(number: int, wait: bool) -> Any:
        pytest.fail(f"{number} is tried again")

    reasons = [done.reason for done in _collect(ray, {"first": 0, "second": 1}, submit, board, print)]
    assert reasons[0] == "ValueError: no such thing"
    assert str(reasons[1]).startswith("its worker died 3 times")


@pytest.fixture
def cells(factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[int, RunRequest]]:
    """Three cells against one target that is yet to be trained, with results somewhere."""
    monkeypatch.setenv("ADVBENCH_HOME", str(tmp_path / "home"))

    def make(results: str) -> dict[int, RunRequest]:
        common = ["--target", f"{factories}:plain", "--target-epochs", "2", "--epsilon", "0.1", "--limit", "20",
                  "--device", "cpu", "--results", results]  # fmt: skip
        return dict(enumerate(request_of(["--attack", name, *common]) for name in ("pgd", "fgsm", "noise")))

    return make


def assert_that_two_users_share(run: Callable[[Callable[[Event], None]], Iterable[Done | None]]) -> None:
    """Two run the same at once: each target is trained by one of them, each cell run by one, both have all results."""
    told: list[tuple[int, Event]] = []
    done: list[Done | None] = []

    def user(number: int) -> None:
        done.extend(run(lambda event: told.append((number, event))))

    users = [threading.Thread(target=user, args=(number,)) for number in range(2)]
    for each in users:
        each.start()
    for each in users:
        each.join()
    assert [each and each.status for each in done] == [Status.OK] * 6
    assert len({each.key for each in done if each}) == 3
    trained = [(number, event) for number, event in told if event.task.startswith("training target")]
    assert len({number for number, _ in trained}) == 1
    began = {(number, event.cell) for number, event in told if event.task == "perturbing and checking"}
    assert sorted(cell for _, cell in began) == [0, 1, 2]


def test_what_another_takes_away_while_it_is_listed_is_left_out(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write_note("failures", "one", "still there")
    (tmp_path / ".notes" / "failures" / "two").symlink_to(tmp_path / "gone")
    assert store.notes("failures") == ["still there"]


def test_two_users_share_the_work(cells: Callable[[str], dict[int, RunRequest]], tmp_path: Path) -> None:
    requests = cells(str(tmp_path / "results"))
    assert_that_two_users_share(
        lambda tell: [work(number, requests[number], Workshop(), tell, wait=True) for number in requests]
    )


@pytest.mark.slow
@pytest.mark.parametrize("behind", ["", "file://"])
def test_two_users_with_workers_share_the_work(
    behind: str, cells: Callable[[str], dict[int, RunRequest]], tmp_path: Path
) -> None:
    requests = cells(f"{behind}{tmp_path / 'results'}")
    assert_that_two_users_share(lambda tell: run_locally(requests, tell, workers=1))
