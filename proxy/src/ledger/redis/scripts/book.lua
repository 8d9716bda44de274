-- Everything that is counted of all owners at one moment. KEYS: their hashes and leases.
-- Reply: how many charges there were, the time, then of each owner what look.lua gives, and what its holds have taken.
local told = {}
for index = 1, #KEYS, 2 do
  reap(KEYS[index], KEYS[index + 1])
  local fields, known = { now, moment }, redis.call('HGETALL', KEYS[index])
  for at = 1, #known, 2 do
    if string.find(known[at], '^[stobuh]:') then
      fields[#fields + 1] = known[at]
      fields[#fields + 1] = known[at + 1]
    end
  end
  told[#told + 1] = fields
end
-- Not before: what has expired is a charge.
table.insert(told, 1, now)
table.insert(told, 1, tonumber(redis.call('HGET', LOG, 'n') or 0))
return told
