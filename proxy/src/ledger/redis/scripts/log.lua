-- Has charges kept for usage logs, forgets those that have a line, and gives those that nobody tells of: to one asker,
-- and to another when that one has not said for some time that it has told of them.
-- KEYS: the proxy's hash of charges. ARGV: for how long from now charges are kept, or 0; a name for the ledger if it has
-- none; then names of charges that have a line.
-- Reply: the ledger's name, how many charges there were, then names and charges.
for index = 3, #ARGV do
  redis.call('HDEL', LOG, 'c:' .. ARGV[index])
end
redis.call('HSETNX', LOG, 'id', ARGV[2])
if ARGV[1] ~= '0' then
  redis.call('HSET', LOG, 'until', text(now + tonumber(ARGV[1])))
end
local told = { redis.call('HGET', LOG, 'id'), tonumber(redis.call('HGET', LOG, 'n') or 0) }
local some = redis.call('HSCAN', LOG, 0, 'MATCH', 'c:*', 'COUNT', 1000)[2]
for index = 1, #some, 2 do
  local head, left_until, rest = string.match(some[index + 1], '^(%d+ %d+ )(%d+)(.*)$')
  if tonumber(left_until) <= now then
    redis.call('HSET', LOG, some[index], head .. text(now + TOLD_WITHIN) .. rest)
    told[#told + 1] = string.sub(some[index], 3)
    told[#told + 1] = some[index + 1]
  end
end
return told
