"""Compares la-router with nginx in one run and prints, or writes, the table of RESULTS.md.

The proxy under test is pinned to core 0; load (wrk) and upstream share core 1. What is compared runs side by side: both
of a pair at the same time, sharing core 0, so that what else happens on the machine happens to both. Beside that, every
round runs every peer alone for the same time, in rotated order; where the host took too much of the machine, one more
round is run. The tables show medians over rounds. CPU is user and system time of the serving process from
/proc/PID/stat.
"""
import argparse
import ast
import concurrent.futures
import http.client
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
PROXY_CORE, LOAD_CORE = "0", "1"
CONNECTIONS = 32
STREAMS = 1000
HOLD_MS = 12000
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
MOST_STOLEN = 0.03  # of both cores, in a round that is not disturbed
REST_SECONDS = 8  # after a disturbed round: a host that lends processors on credit gives them back
TARGETS = {"throughput": 0.85, "cpu": 1.2, "stream": 30.0, "idle": 6.0, "ready": 20.0, "budgets": 0.95, "redis": 2.0,
           "accounts": 0.97}
AT_LEAST = {"throughput", "budgets", "accounts"}
PAIRS = {"throughput": ("la-router", "nginx"), "budgets": ("four budgets and a rate", "la-router"),
         "accounts": ("a session on five accounts", "one account, fields unread")}
ACCOUNT = "{name: NAME, credential: {apiKey: {secretRef: {name: key}}}}"
LIMITS = """limits:
    budgets:
      - {name: day, unit: Requests, limit: "1000000000", window: {calendar: {every: Day}}}
      - {name: month, unit: Tokens, limit: "1000000000000000", window: {calendar: {every: Month}}}
      - {name: week, unit: USD, limit: "9000000", window: {rolling: 168h}}
      - {name: life, unit: USD, limit: "9000000"}
    rates: [{unit: Requests, limit: 1000000000, per: 1m}]"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, path=None, limit=20.0):
    """Until a connection is accepted or, with a path, a GET of it answers 200."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            if path is None:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.0005)
    raise SystemExit(f"nothing answers on port {port}")


class Peer:
    """A started process, and the one of it that serves."""

    token = "none"
    session = None

    def __init__(self, name, port, process, serving):
        self.name, self.port, self.process, self.serving = name, port, process, serving

    def cpu_us(self):
        fields = pathlib.Path(f"/proc/{self.serving}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * TICK_US

    def rss_kb(self):
        rollup = pathlib.Path(f"/proc/{self.serving}/smaps_rollup").read_text()
        return int(re.search(r"^Rss:\s+(\d+)", rollup, re.M).group(1))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def pinned(core, command, **options):
    return subprocess.Popen(["taskset", "-c", core, *map(str, command)], **options)


def start_upstream(binary, directory, *flags):
    port = free_port()
    log = open(directory / f"upstream-{port}.log", "w")
    process = pinned(LOAD_CORE, [binary, "--bench", *flags, "--listen", f"127.0.0.1:{port}"], stdout=log, stderr=log)
    wait_for(port)
    return Peer("direct", port, process, process.pid)


def start_nginx(directory, upstream):
    port = free_port()
    conf = (HERE / "nginx.conf").read_text().replace("DIR", str(directory)).replace("PORT", str(port))
    (directory / "nginx.conf").write_text(conf.replace("UPSTREAM", f"127.0.0.1:{upstream.port}"))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    process = pinned(PROXY_CORE, [nginx, "-c", directory / "nginx.conf"],
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    # The master listens before its worker, which is what serves, exists.
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (workers := children.read_text().split()):
        time.sleep(0.01)
    return Peer("nginx", port, process, int(workers[0]))


def start_redis(directory):
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", directory]
    process = pinned(LOAD_CORE, command, stdout=subprocess.DEVNULL)
    wait_for(port)
    return Peer("redis", port, process, process.pid)


def router_command(binary, directory, ports, log_requests, flags=()):
    port, admin = ports
    return [binary, "serve", "--manifests", directory / "manifests", "--tokens-dir", directory / "tokens",
            "--data-dir", directory / "data", "--host", "127.0.0.1", "--port", port, "--admin-listen",
            f"127.0.0.1:{admin}", "--threads", "1", "--request-log", "true" if log_requests else "false",
            "--usage-log", "on" if log_requests else "off", *flags]


def start_router(name, binary, directory, upstream, log_requests=False, limits="label: no limits", flags=(), accounts=1):
    directory = directory / name.replace(" ", "-")
    (directory / "manifests").mkdir(parents=True)
    text = (HERE / "manifests.yaml").read_text().replace("UPSTREAM", f"127.0.0.1:{upstream.port}").replace("LIMITS", limits)
    each = (ACCOUNT.replace("NAME", f"account-{number}") for number in range(accounts))
    text = text.replace("ACCOUNTS", f"[{', '.join(each)}]")
    (directory / "manifests" / "bench.yaml").write_text(text)
    ports = (free_port(), free_port())
    log = open(directory / "log", "w")
    command = router_command(binary, directory, ports, log_requests, flags)
    process = pinned(PROXY_CORE, command, stdout=log, stderr=log, env={})
    wait_for(ports[1], "/readyz")
    peer = Peer(name, ports[0], process, process.pid)
    peer.token = (directory / "tokens" / "bench" / "load" / "token").read_text().strip()
    peer.directory = directory
    return peer


def latency_us(peer, body, seconds):
    """Median of one connection."""
    command = ["wrk", "-t1", "-c1", f"-d{seconds}s", "--latency", "-s", HERE / "request.lua",
               f"http://127.0.0.1:{peer.port}/v1/messages"]
    environment = {**os.environ, "BENCH_BODY": body, "BENCH_TOKEN": peer.token}
    said = subprocess.run(["taskset", "-c", LOAD_CORE, *map(str, command)], stdout=subprocess.PIPE, text=True,
                          env=environment, check=True).stdout
    if "Non-2xx" in said:
        raise SystemExit(f"{peer.name}: {said}")
    number, unit = re.search(r"50%\s+([\d.]+)(us|ms)", said).groups()
    return float(number) * (1000 if unit == "ms" else 1)


def script_call(redis, peer, body):
    """The arguments of the script call that reserves one request, with a hold of its own each time."""
    with socket.create_connection(("127.0.0.1", redis.port), 5) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        latency_us(peer, body, 1)
        seen = monitor.recv(1 << 20).decode()
    for line in seen.splitlines():
        words = [ast.literal_eval(word) for word in re.findall(r'"(?:[^"\\]|\\.)*"', line)]
        if words and words[0].lower() == "evalsha" and "first" in words:
            words[words.index("first") - 1] = "bench-__rand_int__"
            return words
    raise SystemExit("no script call was seen")


def bare_call_us(redis, words, seconds_worth=20_000):
    """Median of the bare script call from where the proxy runs."""
    command = ["redis-benchmark", "-p", redis.port, "-c", "1", "-n", seconds_worth, "-r", 1_000_000_000, "--csv", *words]
    said = subprocess.run(["taskset", "-c", PROXY_CORE, *map(str, command)], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    names, values = (line.split(",") for line in said.strip().splitlines()[-2:])
    return float(values[names.index('"p50_latency_ms"')].strip('"')) * 1000


def added_by_redis(redis, shared, embedded, body, rounds):
    """Median latency with Redis and without, and of the bare call; and by how much more than it Redis adds."""
    words = script_call(redis, shared, body)
    each, _ = least_disturbed(
        rounds, lambda _: (latency_us(shared, body, 2), latency_us(embedded, body, 2), bare_call_us(redis, words)))
    ratio = statistics.median((with_it - without) / bare for with_it, without, bare in each)
    return [statistics.median(column) for column in zip(*each)], ratio


def wrk(peer, body, connections, seconds):
    """Requests per second and CPU µs per request."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", HERE / "request.lua",
               "--timeout", "30s", f"http://127.0.0.1:{peer.port}/v1/messages"]
    before = peer.cpu_us()
    environment = {**os.environ, "BENCH_BODY": body, "BENCH_TOKEN": peer.token}
    if peer.session:
        environment["BENCH_SESSION"] = peer.session
    process = pinned(LOAD_CORE, command, stdout=subprocess.PIPE, text=True, env=environment)
    said = process.communicate()[0]
    used = peer.cpu_us() - before
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{peer.name}: {said}")
    count = int(re.search(r"(\d+) requests in", said).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))
    return rate, used / max(count, 1)


def held_streams(peer):
    """Resident kB per open stream, and resident kB before."""
    before = peer.rss_kb()
    body = f'{{"model":"hold-{HOLD_MS}","max_tokens":64,"stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'
    command = ["wrk", "-t1", f"-c{STREAMS}", f"-d{HOLD_MS // 1000 - 3}s", "-s", HERE / "request.lua",
               "--timeout", "30s", f"http://127.0.0.1:{peer.port}/v1/messages"]
    environment = {**os.environ, "BENCH_BODY": body, "BENCH_TOKEN": peer.token}
    process = pinned(LOAD_CORE, command, stdout=subprocess.DEVNULL, env=environment)
    time.sleep(HOLD_MS / 2000)
    table = pathlib.Path(f"/proc/{peer.serving}/net/tcp").read_text().splitlines()
    open_streams = sum(f":{peer.port:04X} " in line.split()[1] + " " and line.split()[3] == "01" for line in table[1:])
    during = peer.rss_kb()
    process.wait()
    if open_streams < STREAMS * 0.99:
        raise SystemExit(f"{peer.name}: only {open_streams} streams were open")
    return (during - before) / open_streams, before


def start_times(binary, peer, runs=15):
    """Milliseconds from exec to the first 200 of /readyz, on a data folder that exists."""
    times = []
    for _ in range(runs):
        ports = (free_port(), free_port())
        directory = peer.directory.parent / "starts"
        shutil.copytree(peer.directory / "manifests", directory / "manifests", dirs_exist_ok=True)
        began = time.monotonic()
        process = subprocess.Popen(list(map(str, router_command(binary, directory, ports, False))),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={})
        wait_for(ports[1], "/readyz")
        times.append((time.monotonic() - began) * 1000)
        process.send_signal(signal.SIGTERM)
        process.wait()
    return statistics.median(times[1:])


def stolen_ticks():
    """What the host of a virtual machine has taken of both cores."""
    lines = pathlib.Path("/proc/stat").read_text().splitlines()
    return sum(int(line.split()[8]) for line in lines if line.split()[0] in (f"cpu{PROXY_CORE}", f"cpu{LOAD_CORE}"))


def least_disturbed(rounds, run):
    """What `run` gave in the rounds in which the host took least of both cores, and how many were run for them."""
    done = []
    while sum(stolen <= MOST_STOLEN for stolen, _ in done) < rounds and len(done) < 3 * rounds:
        ticks, began = stolen_ticks(), time.monotonic()
        given = run(len(done))
        stolen = (stolen_ticks() - ticks) * TICK_US / (2 * (time.monotonic() - began) * 1_000_000)
        done.append((stolen, given))
        if stolen > MOST_STOLEN:
            print(f"  {stolen:.1%} stolen: once more", flush=True)
            time.sleep(REST_SECONDS)
    kept = sorted(done, key=lambda one: one[0])[:rounds]
    return [given for _, given in kept], len(done)


def measure(peers, body, rounds, seconds):
    """What each peer did in each round, and how many rounds were run for it."""
    for peer in peers:
        wrk(peer, body, CONNECTIONS, 1)

    def one(number):
        at = number % len(peers)
        row = {peer.name: wrk(peer, body, CONNECTIONS, seconds) for peer in peers[at:] + peers[:at]}
        print(f"round {number + 1}: " + ", ".join(
            f"{peer.name} {row[peer.name][0] / 1000:.1f} k/s {row[peer.name][1]:.1f} µs" for peer in peers), flush=True)
        return row

    kept, run = least_disturbed(rounds, one)
    return {peer.name: [row[peer.name] for row in kept] for peer in peers}, run


def side_by_side(peers, body, rounds, seconds):
    """Throughput and CPU per request of the first of each pair, of those of the second, while they share a core."""
    by_name = {peer.name: peer for peer in peers}
    ratios = {key: [] for key in PAIRS}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            for key, pair in PAIRS.items():
                runs = [pool.submit(wrk, by_name[name], body, CONNECTIONS, seconds) for name in pair]
                (rate, cpu), (other_rate, other_cpu) = (run.result() for run in runs)
                ratios[key].append((rate / other_rate, cpu / other_cpu))
            print(f"side by side {number + 1}: " + ", ".join(
                f"{name} {ratios[key][-1][0]:.2f} of {to}" for key, (name, to) in PAIRS.items()), flush=True)
    return {key: tuple(map(statistics.median, zip(*each))) for key, each in ratios.items()}


def table(rows, together, streams, ready, redis):
    def ratio(name, index, to):
        return statistics.median(mine[index] / other[index] for mine, other in zip(rows[name], rows[to]))

    lines = ["| At 32 connections | requests/s | of direct | of nginx | CPU µs/request | of nginx |",
             "|---|---|---|---|---|---|"]
    for name, values in rows.items():
        rate = statistics.median(value[0] for value in values)
        cpu = statistics.median(value[1] for value in values)
        cells = [f"{rate:,.0f}", f"{ratio(name, 0, 'direct'):.2f}", f"{ratio(name, 0, 'nginx'):.2f}", f"{cpu:.1f}",
                 f"{ratio(name, 1, 'nginx'):.2f}"]
        if name == "direct":
            cells[3:] = ["–", "–"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| Side by side, sharing a core | of | throughput | CPU/request |", "|---|---|---|---|"]
    for key, (name, to) in PAIRS.items():
        lines.append(f"| {name} | {to} | {together[key][0]:.2f} | {together[key][1]:.2f} |")
    lines += ["", "| Memory and start | nginx | la-router |", "|---|---|---|"]
    lines.append(f"| idle resident memory, MB | {streams['nginx'][1] / 1024:.1f} | {streams['la-router'][1] / 1024:.1f} |")
    lines.append(f"| kB per open stream ({STREAMS} held) | {streams['nginx'][0]:.1f} | {streams['la-router'][0]:.1f} |")
    lines.append(f"| exec to ready, ms | – | {ready:.1f} |")
    (with_it, without, bare), added = redis
    lines += ["", "| Median latency at one connection, µs | |", "|---|---|", f"| four budgets and a rate, embedded | {without:.0f} |",
              f"| the same in Redis on loopback | {with_it:.0f} |", f"| the bare script call | {bare:.0f} |"]
    found = {**{key: throughput for key, (throughput, _) in together.items()}, "cpu": together["throughput"][1],
             "stream": streams["la-router"][0], "idle": streams["la-router"][1] / 1024, "ready": ready, "redis": added}
    names = {"throughput": "throughput of nginx's, at least", "cpu": "CPU per request of nginx's, at most",
             "stream": "kB per open stream, at most", "idle": "idle resident memory in MB, at most",
             "ready": "ms to ready, at most",
             "budgets": "throughput with four budgets and a rate of that with none, at least",
             "redis": "latency that Redis adds, in bare script calls, at most",
             "accounts": "throughput of a session on five accounts that tell their limits, of that on one with fields as long, at least"}
    lines += ["", "| Target | | Measured | |", "|---|---|---|---|"]
    for key, target in TARGETS.items():
        met = found[key] >= target if key in AT_LEAST else found[key] <= target
        lines.append(f"| {names[key]} | {target:g} | {found[key]:.2f} | {'met' if met else '**missed**'} |")
    return "\n".join(lines) + "\n"


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    nginx = subprocess.run([shutil.which("nginx") or "/usr/sbin/nginx", "-v"], stderr=subprocess.PIPE, text=True).stderr
    return f"{os.cpu_count()} × {model.group(1) if model else 'unknown CPU'}, Linux {platform.release()}, {nginx.strip()}"


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    parser = argparse.ArgumentParser()
    parser.add_argument("--router", required=True)
    parser.add_argument("--upstream", required=True)
    # Many short ones: what else the machine does changes within seconds, and then touches the peers of a round alike.
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    body = '{"model":"claude-haiku-4-5","max_tokens":64,"messages":[{"role":"user","content":"PAD"}]}'
    body = body.replace("PAD", "x" * (300 - len(body) + 3))
    peers, others = [], []
    with tempfile.TemporaryDirectory(prefix="la-router-bench-") as directory:
        directory = pathlib.Path(directory)
        directory.chmod(0o755)  # nginx's worker is not root
        try:
            direct = start_upstream(args.upstream, directory)
            peers.append(direct)
            # Memory on processes of their own: one that has carried a thousand streams keeps some of it, and is slower.
            held = [start_nginx(directory, direct), start_router("held", args.router, directory, direct)]
            others += held
            streams = dict(zip(("nginx", "la-router"), map(held_streams, held)))
            ready = start_times(args.router, held[1])
            for peer in held:
                peer.stop()
            peers.append(start_nginx(directory, direct))
            peers.append(start_router("la-router", args.router, directory, direct))
            budgeted = start_router("four budgets and a rate", args.router, directory, direct, limits=LIMITS)
            peers.append(budgeted)
            # Answers of one length, so that the difference is what is made of them.
            unread, telling = (start_upstream(args.upstream, directory, flag) for flag in ("--other-fields", "--limits"))
            others += [unread, telling]
            peers.append(start_router("one account, fields unread", args.router, directory, unread))
            pool = start_router("a session on five accounts", args.router, directory, telling, accounts=5)
            pool.session = "bench"
            peers.append(pool)
            peers.append(start_router("la-router, both logs on", args.router, directory, direct, log_requests=True))
            rows, run = measure(peers, body, args.rounds, args.seconds)
            together = side_by_side(peers, body, args.rounds, 2 * args.seconds)
            redis = start_redis(directory)
            peers.append(redis)
            flags = ["--ledger", "redis", "--redis-url", f"redis://127.0.0.1:{redis.port}"]
            shared = start_router("shared", args.router, directory, direct, limits=LIMITS, flags=flags)
            peers.append(shared)
            redis = added_by_redis(redis, shared, budgeted, body, 7)
        finally:
            for peer in peers + others:
                peer.stop()
    text = table(rows, together, streams, ready, redis)
    print("\n" + text)
    if args.write:
        results = HERE / "RESULTS.md"
        head, _, rest = results.read_text().partition("<!-- measured -->\n")
        tail = rest.partition("<!-- /measured -->\n")[2]
        when = (f"{time.strftime('%Y-%m-%d', time.gmtime())}, {machine()}, median of {args.rounds} rounds of "
                f"{args.seconds} s (of {run}: those in which the host took least of the machine), load average at the "
                f"start {load:.1f} (0.5 or less is a quiet machine).\n\n")
        results.write_text(f"{head}<!-- measured -->\n{when}{text}<!-- /measured -->\n{tail}")


main()
