-- What is there for a question. Keys: answer, lease. Arguments: the token for a new lease or "" to take none, the lease's
-- milliseconds, the most bytes of an answer, and "1" to disregard an answer.
-- Returns the server's time in milliseconds, a word, and what belongs to it, each after a space.
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000)) .. ' '
if ARGV[4] ~= '1' then
  -- Somebody may have put another type there, or something huge; both are no answer.
  local size = redis.pcall('STRLEN', KEYS[1])
  if type(size) ~= 'number' or size > tonumber(ARGV[3]) then return now .. 'bad ' end
  if size > 0 then return now .. 'found ' .. redis.call('GET', KEYS[1]) end
end
if ARGV[1] == '' then return now .. 'none ' end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return now .. 'led ' end
local left = redis.call('PTTL', KEYS[2])
if left < 0 or left > tonumber(ARGV[2]) then
  -- No gateway leaves a lease without an end, or with such a late one.
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  left = ARGV[2]
end
return now .. 'held ' .. left
