
-- Slots to those whose turn it is, and the step itself.

local MOST = 320 -- most slots that one step hands out
local CHUNK = 4000 -- most charges of which one reply tells

local function free_now()
  if state.gate and (state.gate.probe or state.gate.till > now) then return 0 end
  local tokens = math.max(unpaced_calls(), math.floor(state.level + 0.000001))
  local free = math.min(tokens, room())
  if state.gate then free = math.min(free, 1) end
  free = math.min(free, math.max(slowly(), slowly_at(1) <= now and 1 or 0))
  return math.max(free, 0)
end

-- When the n-th coming slot comes, for a timer: nil when only news can tell.
local function slot_at(n)
  if state.gate and state.gate.probe then return nil end
  local at = opening(n)
  return at and math.max(at, bucket(n), state.gate and state.gate.till or 0, slowly_at(n))
end

-- A slot is kept for a member for a moment, and it is told so.
local function offer(name, member, flow)
  if #member.offers == 0 then redis.call('ZADD', OFFERS, string.format('%.0f', now + step.claim), name) end
  member.offers[#member.offers + 1], member.changed = flow, true
  state.offered = state.offered + 1
  wakes[name] = ''
end

-- Who does not come for its slot in time is passed over until it is heard of again.
local function end_offers()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', OFFERS, '-inf', string.format('%.0f', now), 'LIMIT', 0, ENDED)) do
    if name ~= step.me then
      local member = record(name)
      redis.call('ZREM', OFFERS, name)
      if member then
        state.offered = state.offered - #member.offers
        declare(name, member, {})
        member.offers, member.again = {}, true
      end
    end
  end
end

-- The slots that were kept for this member. Its requests were counted off when they were offered; if it has told anew what waits, the one
-- that is served now is among them.
local function claim(me, open)
  local granted = {}
  if #me.offers == 0 then return granted end
  redis.call('ZREM', OFFERS, step.me)
  state.offered = state.offered - #me.offers
  for _, flow in ipairs(me.offers) do
    if #granted < math.min(open, step.want) then
      granted[#granted + 1] = flow
      if step.flows then uncount(step.me, me, flow) end
    elseif not step.flows then
      me.again = true
    end
  end
  me.offers, me.changed = {}, true
  return granted
end

-- Tells the one whose turn is next when its slot comes, and has this one look whether it came for it.
local function tell_next(me, due)
  local flow, name = next_turn()
  local at = flow and slot_at(state.offered + 1)
  if not at then return due end
  local member = record(name)
  if name == step.me then
    me.due, me.changed = at, true
    return math.min(due, at)
  end
  if not member.due or member.due > at + 2000 or member.due < now - step.claim then
    member.due, member.changed = at, true
    if wakes[name] == nil then wakes[name] = string.format('%.0f', math.max(at - now, 0)) end
    if redis.call('ZCARD', JOINED) <= 16 then return math.min(due, math.max(at, now) + step.claim) end
  end
  return due
end

local function grant(me)
  fill()
  if state.plan <= now then replan() end
  local open, due = free_now(), math.huge
  local granted = claim(me, open)
  local spare = open - #granted - state.offered
  for _ = 1, math.min(spare, MOST) do
    local flow, name = next_turn()
    if not flow then break end
    if name == step.me then
      if #granted >= step.want then
        -- It has not left names for further slots.
        due = now
        break
      end
      take_turn(flow, name)
      granted[#granted + 1] = flow
    else
      take_turn(flow, name)
      offer(name, record(name), flow)
      due = now + step.claim
    end
  end
  for n = 1, #granted do take(step.me .. ':' .. (step.next + n - 1)) end
  return granted, tell_next(me, due)
end

local function told(id)
  local at = redis.call('ZSCORE', PAST, id)
  if at then return { id, 2, math.floor(now - tonumber(at)) } end
  local latest = redis.call('ZSCORE', FLYING, id)
  if latest then return { id, 1, math.ceil(tonumber(latest) - now) } end
  return { id, 0, 0 }
end

-- What is new in the ledger since this member was told. One that brought a copy has all that was granted before, and takes what is in
-- flight to count until later than it will.
local function news(me)
  local list = {}
  if step.seq >= state.trimmed then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', LOG, '(' .. step.seq, '+inf')) do list[#list + 1] = told(id) end
    return #list > 0 and list or nil
  end
  local from = me.had and '(' .. string.format('%.0f', me.had - step.attempt - step.lease) or '-inf'
  local past = redis.call('ZRANGEBYSCORE', PAST, from, '+inf', 'WITHSCORES', 'LIMIT', 0, CHUNK)
  for i = 1, #past, 2 do list[#list + 1] = { past[i], 2, math.floor(now - tonumber(past[i + 1])) } end
  local flying = redis.call('ZRANGE', FLYING, 0, -1, 'WITHSCORES')
  for i = 1, #flying, 2 do list[#list + 1] = { flying[i], 1, math.ceil(tonumber(flying[i + 1]) - now) } end
  return #list > 0 and list or nil
end

local function finish(reply)
  write_order()
  state.last = now
  state.counts = counts()
  redis.call('SET', STATE, cmsgpack.pack(state))
  redis.call('SET', FORMAT, step.format, 'PX', step.quiet)
  for name, message in pairs(wakes) do redis.call('PUBLISH', STATE .. ':' .. name, message) end
  reply.epoch, reply.now = state.epoch, string.format('%.0f', now)
  return cjson.encode(reply)
end

-- A key with a lifetime is what a store that is short of memory evicts first (`volatile-*`), so the ledger has none while it is in use. When
-- the last replica leaves it gets one, or that of an application which is gone would stay for ever.
local function lifetimes(is_left)
  for n = 1, 21 do
    if n ~= 5 and (n < 17 or n > 20) then
      if is_left then redis.call('PEXPIRE', KEYS[n], step.ttl) else redis.call('PERSIST', KEYS[n]) end
    end
  end
end

local function leave()
  if record(step.me) then drop(step.me) end
  sweep()
  for _, done in ipairs(step.settled or {}) do accept(done[1], done[2]) end
  for _, unused in ipairs(step.unused or {}) do give_turn_back(unused[1], unused[2]) end
  for _, id in ipairs(step.refunded or {}) do refund(id) end
  for _, said in ipairs(step.throttled or {}) do throttle(said) end
  lose_probe(step.me)
  local reply = finish({ seq = step.seq, gen = step.gen })
  if redis.call('ZCARD', JOINED) == 0 then lifetimes(true) end
  return reply
end

local function heard_of(me)
  -- Who it was told to have come back elsewhere, it is told again unless it has heard that. Earlier versions do not
  -- say whether they have.
  if me.told and (step.heard or me.call) >= me.call then
    for _ = 1, me.told do table.remove(me.back, 1) end
    if #me.back == 0 then me.back = nil end
  end
  me.told = nil
  me.call, me.due, me.changed = step.call, nil, true
  redis.call('ZADD', LEASES, string.format('%.0f', now + step.lease), step.me)
  if not step.flows then return end
  local wants = {}
  for n, flow in ipairs(step.flows) do
    local want = { f = flow[1], w = flow[2], q = flow[3], r = flow[4], a = flow[5], d = {}, u = {}, x = flow[8] or 0 }
    for i, left in ipairs(flow[6] or {}) do want.d[i] = now + left end
    for i, left in ipairs(flow[7] or {}) do want.u[i] = now + left end
    wants[n] = want
  end
  local is_anew = me.again
  me.again = nil
  -- Until everybody knows of it, it takes no turn.
  if is_known(me) then
    -- What is told anew was there before.
    if not is_anew then come_back(me, wants) end
    declare(step.me, me, wants)
  else
    me.again = true
  end
end

-- Calls that were forgotten because no limit needed them may count where this step's limits reach further back: they are taken to be as
-- many as can.
local function remember()
  local keep, most = math.max(state.keep, step.keep), math.max(state.most, step.most)
  if state.keep > 0 and (keep > state.keep or most > state.most) then
    local since = state.last - state.keep
    local first = count(PAST) >= state.most and redis.call('ZRANGE', PAST, -state.most, -state.most, 'WITHSCORES')
    if first then since = math.max(since, tonumber(first[2])) end
    local known = redis.call('ZCOUNT', PAST, string.format('%.0f', since), '+inf')
    if since > now - keep then
      for _ = known + 1, most do count_at(state.epoch .. '+' .. state.seq, since) end
    end
  end
  state.keep, state.most = keep, most
end

local function run_step()
  if is_lost() then begin_epoch(state or { shift = 0, seq = 0, keep = 0, most = 0 }) end
  if step.epoch ~= state.epoch then return finish({ stale = true, epochs = state.epochs, server = run, doubted = state.doubted }) end
  remember()
  if step.leave then return leave() end
  end_leases()
  local me = admit()
  if newcomer then lifetimes(false) end
  -- A step that was overtaken by a later one of the same replica must not be taken: nobody reads its answer.
  if step.call <= me.call then return finish({ stale = true }) end
  local reply = {}
  if not state.merging then acknowledge() end
  heard_of(me)
  sweep()
  forget_refusals()
  if step.copy then
    if state.merging then me.had, me.of = now - step.copy.age, step.copy.of end
    reply.bring = merge(step.copy) or nil
  end
  -- First: one that is settled as well was not answered, and tells nothing as a probe.
  for _, id in ipairs(step.lost or {}) do
    if not (state.slow and is_told(id)) then lose(id) end
  end
  for _, done in ipairs(step.settled or {}) do accept(done[1], done[2]) end
  for _, unused in ipairs(step.unused or {}) do give_turn_back(unused[1], unused[2]) end
  for _, id in ipairs(step.refunded or {}) do refund(id) end
  for _, said in ipairs(step.throttled or {}) do throttle(said) end
  if state.merging then end_merge() end
  if state.merging then
    reply.merging, reply.seq, reply.gen = math.max(0, merge_ends() - now), step.seq, step.gen
    return finish(reply)
  end
  end_offers()
  local granted, due = {}, math.huge
  if is_known(me) then granted, due = grant(me) elseif step.wants then due = call_all() end
  membership(me, reply)
  reply.news, reply.seq = news(me), state.seq
  if step.seq < state.trimmed then me.had = nil end
  if #granted > 0 then reply.granted = granted end
  if due < math.huge then reply.due = math.max(0, math.ceil(due - now)) end
  if is_wanted() then
    reply.others, reply.returns = others(me, returns())
    standings(me, reply)
  end
  reply.again = me.again
  if me.back then reply.back, me.told = me.back, #me.back end
  local calls, holes = foreseen()
  reply.foreign, reply.holes = calls > 0 and calls or nil, holes
  local gate = state.gate or {}
  -- Nobody else may go before the probe is answered, which is soon.
  local probe = gate.probe and redis.call('ZSCORE', FLYING, gate.probe)
  local pause = gate.till or probe and math.max(now + SECOND, tonumber(probe) - step.attempt + step.landing)
  reply.unpaced, reply.paced = is_unpaced() or nil, paced()
  reply.level, reply.rate, reply.plan = state.level, state.rate * 1000000, math.max(0, state.plan - now)
  reply.pause, reply.probe = pause and math.max(0, pause - now) or nil, gate.probe
  return finish(reply)
end

-- Calls of replicas that store something else are known to them alone, but for those of the format before this one: its ledger is taken
-- over as it stands, and its replicas find ours in its place and grant nothing more.
local function take_over()
  local old_state, old_past, old_flying = KEYS[17], KEYS[18], KEYS[19]
  local packed = redis.call('GET', old_state)
  local old = packed and cmsgpack.unpack(packed)
  if not old or old.merging or old.run ~= run or old.past ~= count(old_past) or old.flying ~= count(old_flying) then return false end
  state = nil
  redis.call('DEL', PAST, FLYING, LOG)
  now = math.max(clock + old.shift, old.last)
  begin_epoch({ shift = now - clock, seq = 0, keep = old.keep, most = old.most, gate = old.gate })
  for from, to in pairs({ [old_past] = PAST, [old_flying] = FLYING }) do
    redis.call('ZUNIONSTORE', to, 1, from)
    for _, id in ipairs(redis.call('ZRANGE', from, 0, -1)) do note(id) end
  end
  state.merging, state.level, state.rate, state.at, state.plan = nil, old.level, old.rate, old.at, 0
  redis.call('DEL', old_state, old_past, old_flying, KEYS[20])
  return true
end

local format = redis.call('GET', FORMAT)
if format and format ~= step.format and not (format == step.before and take_over()) then
  if had_lifetime then redis.call('PEXPIRE', STATE, step.ttl) end
  return cjson.encode({ other = format })
end
-- What was taken over stands as it is until the first step with its epoch.
if state and format and format ~= step.format then
  state.counts, state.last = counts(), now
end
return run_step()
