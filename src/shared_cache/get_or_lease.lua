-- Looks up an answer, or takes a lease. Keys: answer, lease. Arguments: the token for a new lease
-- or "" to take none, the lease's milliseconds, the most bytes of an answer, and "1" to ignore a
-- stored answer.
-- Returns the server's time in milliseconds, a word, and the word's value, separated by spaces.
local time = redis.call('TIME')
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%d', clock) .. ' '
if ARGV[4] ~= '1' then
  -- The key may hold another type or a huge value; both are no answer.
  local size = redis.pcall('STRLEN', KEYS[1])
  if type(size) ~= 'number' or size > tonumber(ARGV[3]) then return now .. 'bad ' end
  local value = size > 0 and redis.call('GET', KEYS[1])
  -- The clock was set back. The answer goes: it would be newer than any that replaces it, and fresh
  -- again when the clock comes to it.
  if size > 8 and struct.unpack('>I8', value, 2) > clock + 1000 then
    redis.call('DEL', KEYS[1])
    return now .. 'bad '
  end
  if value then return now .. 'found ' .. value end
end
if ARGV[1] == '' then return now .. 'none ' end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return now .. 'led ' end
-- A token ends with its holder's urgency, where 0 goes first; earlier versions do not say it. A more
-- urgent call takes the lease, because its turn may come earlier. The other one still waits for its
-- own, and the first answer serves both. A call that has left has the end ':left:0': nobody takes
-- its lease, whatever version it is of.
local function urgency(token) return type(token) == 'string' and tonumber(string.match(token, ':(%d)$')) end
local held = redis.pcall('GET', KEYS[2])
local ours, theirs = urgency(ARGV[1]), urgency(held)
if ours and theirs and ours < theirs then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  return now .. 'led '
end
local left = redis.call('PTTL', KEYS[2])
if left < 0 or left > tonumber(ARGV[2]) then
  -- No gateway writes a lease that never expires, or expires so late.
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  left = ARGV[2]
end
local has_left = type(held) == 'string' and string.match(held, ':left:0$')
return now .. (has_left and 'left ' or 'held ') .. left
