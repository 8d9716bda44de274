-- Forgets the sessions of an account, and tells it. KEYS: news, then sessions and their ends, again and again.
-- ARGV: the account as sessions have it.
for index = 2, #KEYS, 2 do
  local known = redis.call('HGETALL', KEYS[index])
  for at = 1, #known, 2 do
    if known[at + 1] == ARGV[1] then
      drop(KEYS[index], KEYS[index + 1], known[at])
    end
  end
end
tell(KEYS[1], 'sessions forgotten', ARGV[1], '')
return now
