-- Stores the answer of a call and ends its lease. Keys: answer, lease. Arguments: the lease's token
-- or "", the channel, the message, the answer or "", and the server's time in milliseconds at which
-- its freshness ends.
-- Returns why the store took no answer, as when its memory is full, or "".
local done, message, refused = false, ARGV[3], ''
if ARGV[4] ~= '' then
  -- The first bytes are the format's version and when the upstream was asked: an older answer never
  -- replaces a newer one. As text the bytes would compare by the server's locale.
  local there = redis.pcall('GETRANGE', KEYS[1], 0, 8)
  local is_answer = type(there) == 'string' and #there == 9 and string.byte(there) == string.byte(ARGV[4])
  if not is_answer or struct.unpack('>I8', there, 2) <= struct.unpack('>I8', ARGV[4], 2) then
    -- `SET` has `PXAT` for this from Redis 6.2 on only.
    local stored = redis.pcall('SET', KEYS[1], ARGV[4])
    if stored.err then
      -- The lease ends all the same: nobody waits for an answer that is not there.
      refused, message = stored.err, '!' .. string.sub(message, 2)
    else
      redis.call('PEXPIREAT', KEYS[1], ARGV[5])
    end
  end
  done = refused == ''
end
-- A token begins with its holder's name; where the holder's call is, its end says.
local function holder(token) return type(token) == 'string' and string.match(token, '^%x+') end
if ARGV[1] ~= '' and holder(redis.pcall('GET', KEYS[2])) == holder(ARGV[1]) then
  redis.call('DEL', KEYS[2])
  done = true
end
if done then redis.call('PUBLISH', ARGV[2], message) end
return refused
