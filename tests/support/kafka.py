"""A real Apache Kafka of our own: one node, broker and controller in one Java process, jars fetched by Maven.

    with start_kafka() as server:
        produce(server.bootstrap)
        server.kill()      # SIGKILL
        server.start()     # the same ports, the same data

The jars are kept in the user's cache directory; only the first start of a version needs the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from confluent_kafka.admin import AdminClient

from tests.support import services

VERSION = "4.1.1"
#: The last line before 4.0, for what must work on both.
OLD_VERSION = "3.9.1"
_POM = Path(__file__).with_name("kafka_pom.xml")
_CLUSTER_ID = "dXBiZWF0LXRlc3RzLTAwMA"

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
num.partitions=12
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
min.insync.replicas=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.coordinator.rebalance.protocols=classic,consumer
log.retention.hours=168
"""
_LOG4J = """\
log4j.rootLogger=WARN, stdout
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=%d %p %m (%c)%n
"""
_LOG4J2 = """\
rootLogger.level=WARN
rootLogger.appenderRef.stdout.ref=STDOUT
appender.stdout.type=Console
appender.stdout.name=STDOUT
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d %p %m (%c)%n
"""


class MissingJars(Exception):
    """The broker's jars are not in the cache and could not be fetched."""


def look(version: str = VERSION) -> None:
    """Raise services.MissingProgram unless Java is there, and Maven too where the jars have yet to be fetched."""
    services.program("java", "/usr/lib/jvm/*/bin/java")
    if not _jars(version).is_dir():
        services.program("mvn", "/usr/share/maven/bin/mvn")


def bootstrap_of(url: str) -> str:
    """`kafka://host:port` → `host:port`; a bare list of brokers stays as it is."""
    return url.removeprefix("kafka://").rstrip("/")


def ping(url: str) -> None:
    """Raise unless the broker behind `url` answers."""
    AdminClient({"bootstrap.servers": bootstrap_of(url), "log_level": 0}).list_topics(timeout=5)


class KafkaServer(services.Server):
    name = "Kafka"

    def __init__(self, version: str = VERSION, *, overrides: dict[str, str] | None = None) -> None:
        self.version = version
        self.overrides = overrides or {}
        self.java = services.program("java", "/usr/lib/jvm/*/bin/java")
        self.jars = fetched(version)
        super().__init__()
        self.controller_port = services.free_port()

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> None:
        settings = _PROPERTIES.format(port=self.port, controller=self.controller_port, data=self.directory / "data")
        more = "".join(f"{key}={value}\n" for key, value in self.overrides.items())
        (self.directory / "server.properties").write_text(settings + more)
        (self.directory / "log4j.properties").write_text(_LOG4J)
        (self.directory / "log4j2.properties").write_text(_LOG4J2)
        told = subprocess.run(
            [*self._java(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", "server.properties"],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode:
            raise RuntimeError(f"Kafka's directory could not be formatted:\n{told.stdout}{told.stderr}")

    def command(self) -> list[str]:
        return [*self._java(), "kafka.Kafka", "server.properties"]

    def _java(self) -> list[str]:
        log = (
            f"-Dlog4j.configuration=file:{self.directory}/log4j.properties"
            if self.version.startswith("3.")
            else f"-Dlog4j2.configurationFile=file:{self.directory}/log4j2.properties"
        )
        return [self.java, "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", log, "-cp", f"{self.jars}/*"]

    def ping(self) -> None:
        # A client that finds nobody keeps trying and says so on stderr: look at the port first.
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            pass
        ping(self.url)


def start_kafka(version: str = VERSION, *, overrides: dict[str, str] | None = None) -> KafkaServer:
    """Start an empty Kafka; about three seconds, and five more where its jars must be fetched. Raises MissingJars."""
    return services.started(lambda: KafkaServer(version, overrides=overrides))


def fetched(version: str) -> Path:
    """Return the directory with the jars of a version, fetched first if need be. Raises MissingJars."""
    jars = _jars(version)
    if jars.is_dir():
        return jars
    jars.parent.mkdir(parents=True, exist_ok=True)
    with (jars.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            _fetch(version, jars)
    return jars


def _jars(version: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "upbeat-tests" / f"kafka-{version}"


def _fetch(version: str, jars: Path) -> None:
    """Into a directory beside, which gets its name once it is complete."""
    print(f"fetching Apache Kafka {version}", flush=True)
    mvn = services.program("mvn", "/usr/share/maven/bin/mvn")
    said = ""
    for _ in range(2):
        part = Path(tempfile.mkdtemp(prefix="part-", dir=jars.parent))
        try:
            told = subprocess.run(
                [
                    *(mvn, "-B", "-q", "-f", str(_POM), "-P", f"kafka-{version}", "dependency:copy-dependencies"),
                    *("-DincludeScope=runtime", f"-DoutputDirectory={part}"),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            if told.returncode == 0 and any(part.glob("kafka_*.jar")):
                part.rename(jars)
                return
            said = (told.stdout + told.stderr).strip()[-1000:]
        except subprocess.TimeoutExpired:
            said = "Maven did not end within 10 minutes"
        finally:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(part)
    raise MissingJars(
        f"the jars of Apache Kafka {version} could not be fetched with Maven; "
        f"set UPBEAT_TEST_KAFKA_URL to a broker whose topics may be deleted. Maven said:\n{said}"
    )
