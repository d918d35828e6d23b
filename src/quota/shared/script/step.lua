
-- The step itself, and what is said of it.

local TOLD = 16 -- how many entries a replica is told of what the others have promised

local function news()
  local ids
  if step.seq < (state.trimmed or 0) then
    ids = redis.call('ZRANGE', PAST, 0, -1)
    for _, id in ipairs(redis.call('ZRANGE', FLYING, 0, -1)) do ids[#ids + 1] = id end
  else
    ids = redis.call('ZRANGEBYSCORE', LOG, '(' .. step.seq, '+inf')
  end
  local list = {}
  for _, id in ipairs(ids) do
    local at = redis.call('ZSCORE', PAST, id)
    local latest = not at and redis.call('ZSCORE', FLYING, id)
    if at then
      list[#list + 1] = { id, 2, math.floor(now - tonumber(at)) }
    elseif latest then
      list[#list + 1] = { id, 1, math.ceil(tonumber(latest) - now) }
    else
      list[#list + 1] = { id, 0, 0 }
    end
  end
  return #list > 0 and list or nil
end

-- What the others want, for a forecast: of each how many calls, or -1 for all that it can get, and its weight; and what they have promised.
local function rivals()
  local others, wants, promised = {}, {}, {}
  for name, member in pairs(state.members) do
    if name ~= step.me and member.want > 0 then
      others[name] = true
      -- Versions that do not tell what they promise do not tell either whether they want more.
      local want = (member.more or not member.promised) and -1 or member.want
      wants[#wants + 1] = { want, member.weight }
    end
  end
  for _, due in ipairs(promises(others, TOLD)) do
    promised[#promised + 1] = { due.calls, math.floor(due.first - now), math.floor(due.last - now) }
  end
  return #wants > 0 and wants or nil, #promised > 0 and promised or nil
end

local function finish(reply)
  state.last = now
  state.past, state.flying, state.log = count(PAST), count(FLYING), count(LOG)
  redis.call('SET', STATE, cmsgpack.pack(state))
  -- A key with a lifetime is what a store that is short of memory evicts first (`volatile-*`), so the ledger has none while it is in
  -- use. When the last replica leaves it gets one, or that of an application which is gone would stay for ever.
  local in_use = next(state.members) or not step.leave
  for _, key in ipairs({ PAST, FLYING, LOG }) do
    if in_use then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, step.ttl) end
  end
  if not in_use then redis.call('PEXPIRE', STATE, step.ttl) end
  redis.call('SET', FORMAT, step.format, 'PX', step.quiet)
  for name in pairs(wakes) do redis.call('PUBLISH', STATE, name) end
  reply.epoch, reply.now = state.epoch, string.format('%.0f', now)
  return cjson.encode(reply)
end

local function run_step()
  if is_lost() then begin_epoch() end
  if step.epoch ~= state.epoch then return finish({ stale = true }) end
  state.keep, state.most = math.max(state.keep, step.keep), math.max(state.most, step.most)
  if step.leave then
    if state.members[step.me] then state.gen = state.gen + 1 end
    state.members[step.me] = nil
  end
  local me = not step.leave and admit()
  if me then
    -- A step that was overtaken by a later one of the same replica must not be taken: nobody reads its answer.
    if step.call <= me.call then return finish({ stale = true }) end
    if me.want == 0 then me.pass = math.max(me.pass, state.turn) end
    me.call, me.lease, me.seen, me.want, me.weight = step.call, now + step.lease, step.gen, step.want, step.weight
    me.claim, me.due = nil, nil
    me.promised, me.more = {}, step.turns_away
    for n, promise in ipairs(step.promised or {}) do
      me.promised[n] = { promise[1], now + promise[2], now + promise[3] }
    end
  end
  sweep()
  if step.copy then merge(step.copy) end
  for _, done in ipairs(step.settled or {}) do settle(done[1], done[2]) end
  for _, id in ipairs(step.refunded or {}) do refund(id) end
  local foreign = 0
  for _, said in ipairs(step.throttled or {}) do foreign = foreign + throttle(said) end
  if state.merging then end_merge() end
  local granted, due = {}, nil
  if me and not state.merging then granted, due = grant(me) end
  local gate = state.gate or {}
  local wants, promised = rivals()
  local names = {}
  for name in pairs(state.members) do names[#names + 1] = name end
  return finish({
    granted = #granted > 0 and #granted or nil,
    due = due and due < math.huge and math.max(0, math.ceil(due - now)) or nil,
    merging = state.merging and math.max(0, state.merging - now) or nil,
    news = news(), seq = state.seq, gen = state.gen, members = #names > 0 and names or nil, foreign = foreign,
    level = state.level, rate = state.rate * 1000000, plan = math.max(0, state.plan - now),
    pause = gate.till and math.max(0, gate.till - now) or nil, probe = gate.probe,
    wants = wants, promised = promised,
  })
end

return run_step()
