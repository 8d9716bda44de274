-- Notes rests of accounts, and tells them. KEYS: news, rests and their ends, how often each account was forgotten.
-- ARGV, again and again: 'rest' | 'over' | 'forgotten', account, name of the rest, its value, its end in Unix seconds.
local MOST = 65536
-- How long after its end a rest is known: so long it says how long the next one is.
local REMEMBERED_MS = 3600000
local news, rests, ends, forgotten = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
reap(rests, ends, 100)

local function until_of(field)
  local known = redis.call('HGET', rests, field)
  return known and tonumber(string.match(known, '^1 (%d+) ')) or -1
end

for at = 1, #ARGV, 5 do
  local kind, account, name, value, until_s = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local field = account .. ' ' .. name
  if kind == 'rest' and until_of(field) < until_s then
    put(rests, ends, field, value, until_s * 1000 + REMEMBERED_MS, MOST)
    tell(news, kind, field, value)
  elseif kind == 'over' then
    if until_of(field) <= until_s then
      drop(rests, ends, field)
    end
    tell(news, kind, field, text(until_s))
  elseif kind == 'forgotten' then
    for _, known in ipairs(redis.call('HKEYS', rests)) do
      if string.sub(known, 1, #account + 1) == account .. ' ' then
        drop(rests, ends, known)
      end
    end
    local count = redis.call('HINCRBY', forgotten, account, 1)
    redis.call('PEXPIRE', forgotten, KEEP_MS)
    tell(news, kind, account, text(count))
  end
end
return now
