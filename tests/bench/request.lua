-- The request that wrk repeats: 300 bytes of body, as bench.py passes them in the environment.
wrk.method = "POST"
wrk.body = os.getenv("BENCH_BODY")
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")
if os.getenv("BENCH_SESSION") then
  wrk.headers["x-claude-code-session-id"] = os.getenv("BENCH_SESSION")
end
