-- Holds places of an account for a process: as many as it wants if the others leave so many, and never fewer than it
-- uses. KEYS: places by process, and when they end. ARGV: process, places it uses, places it wants, most places of all
-- processes together, how long they are held in milliseconds.
-- Reply: how many it holds now.
local counts, ends = KEYS[1], KEYS[2]
local process, used, wanted, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
reap(counts, ends, -1)
local others = 0
local known = redis.call('HGETALL', counts)
for at = 1, #known, 2 do
  if known[at] ~= process then
    others = others + (tonumber(known[at + 1]) or 0)
  end
end
local held = math.max(used, math.min(wanted, most - others))
if held > 0 then
  put(counts, ends, process, text(held), now + tonumber(ARGV[5]), 65536)
else
  held = 0
  drop(counts, ends, process)
end
return held
