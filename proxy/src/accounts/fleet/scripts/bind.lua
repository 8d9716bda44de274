-- Notes where sessions are, and tells it: the first replica that says so places a session, and only who knows where it
-- is moves it. KEYS: news, sessions and their ends. ARGV: how long one that is not used is remembered in seconds, how
-- many, then, again and again: session, where it is known to be or '', where it is now.
-- Reply: where each is.
local news, sessions, ends = KEYS[1], KEYS[2], KEYS[3]
local ttl_s, most = ARGV[1], tonumber(ARGV[2])
reap(sessions, ends, 100)
local told = {}
for at = 3, #ARGV, 3 do
  local session, from, to = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local known = redis.call('HGET', sessions, session)
  if known and tonumber(redis.call('ZSCORE', ends, session) or 0) <= now then
    known = false
  end
  if not known or known == from or known == to then
    known = to
    put(sessions, ends, session, to, now + tonumber(ttl_s) * 1000, most)
    tell(news, 'session ' .. ttl_s, session, to)
  end
  told[#told + 1] = known
end
return told
