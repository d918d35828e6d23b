
-- The order of all replicas' requests: classes in proportion to 2^(7-u), callers within a class in proportion to their weights, and the
-- requests of one caller, wherever they wait, by deadline. It is that of queue/order.rs: a class has the tag at which its next service
-- starts, a caller of a class (a flow) the tag at which its next service ends, and the lowest is served (start-time and self-clocked fair
-- queueing). Each look and each change costs a few commands on ordered sets, whatever the number of replicas.

local BASE = 2 ^ 44 -- the flows of all classes are in one set: class by class, by tag
local STRIDE = 2 ^ 20 -- one service of a flow of weight 1
local RENEW = 2 ^ 42 -- tags start again in an idle class past this
local FAR = 9000000000000000
local RETURNING = 64 -- most of those expected back of which it is told when they are due
local LATE, EARLY = 2000000, 1000000 -- who comes so much too late or too early has come back
local LISTED = 8 -- flows of each class that a replica is told of one by one

local records, infos = {}, {}

-- A member as it is stored; what is changed on it is written at the end of the step.
local function record(name)
  if records[name] == nil then
    local packed = redis.call('HGET', MEMBERS, name)
    records[name] = packed and cmsgpack.unpack(packed) or false
  end
  return records[name] or nil
end

-- All that is known of a flow: what waits (q), is expected back (r) and claims no slot for it (x, of later versions),
-- and asks again (a), its weight, and its tag.
local function info(flow)
  if infos[flow] == nil then
    local packed = redis.call('HGET', INFOS, flow)
    local known = packed and cmsgpack.unpack(packed)
    if not known then
      known = { q = 0, r = 0, a = 0, w = 1 }
      local ended = redis.call('ZSCORE', IDLE, flow)
      if ended then known.ended = tonumber(ended) % BASE end
    end
    infos[flow] = known
  end
  return infos[flow]
end

local function class_of(flow) return string.byte(flow) - 47 end

local function range_of(class)
  return string.format('%.0f', (class - 1) * BASE), string.format('(%.0f', class * BASE)
end

-- Whoever comes to its tag now. Among equals who came earlier goes first: the clock moves on by as little as can be.
local function new_tag(flow, known)
  local class = class_of(flow)
  known.key = math.max(known.ended or 0, state.clocks[class]) + STRIDE / known.w
  state.clocks[class] = state.clocks[class] + 1
end

local function place(flow, known)
  redis.call('ZADD', FLOWS, string.format('%.0f', (class_of(flow) - 1) * BASE + known.key), flow)
end

local function is_active(known) return known.q > 0 or known.r > 0 or known.a > 0 end

-- No place is kept where nobody is expected back: scripts of earlier versions take back r and not x.
local function kept(known) return known.r > 0 and known.r + (known.x or 0) or 0 end

-- The tag that is kept for so many requests: behind the clock by what is owed to them and no more, however far it has come since.
local function owed(flow, known, returning)
  return math.max(known.key, state.clocks[class_of(flow)] - STRIDE / known.w * math.max(returning - 1, 0))
end

-- A flow begins to wait. One of which so many were told to come back stands where it would have stood.
local function begin_waiting(flow, known, returning)
  local class = class_of(flow)
  known.back = returning > 0 and known.key ~= nil
  if known.back then
    known.key = owed(flow, known, returning)
    state.clocks[class] = state.clocks[class] + 1
  else
    new_tag(flow, known)
  end
  if state.flows[class] == 0 then state.keys[class] = math.max(state.keys[class], state.clock) end
  state.flows[class] = state.flows[class] + 1
  place(flow, known)
end

local function end_waiting(flow, known)
  local class = class_of(flow)
  redis.call('ZREM', FLOWS, flow)
  state.flows[class] = state.flows[class] - 1
  known.ended = known.key - STRIDE / known.w
end

-- What replicas want of a flow changes by so much.
local function adjust(flow, weight, q, r, a, x)
  local known, sum = info(flow), state.sums[class_of(flow)]
  local waited, returning = known.q > 0, kept(known)
  if is_active(known) then sum.n, sum.w = sum.n - 1, sum.w - known.w end
  if weight then known.w = weight end
  known.x = math.max(returning - known.r + (x or 0), 0)
  known.q, known.r, known.a = math.max(known.q + q, 0), math.max(known.r + r, 0), math.max(known.a + a, 0)
  sum.q, sum.r, sum.a = math.max(sum.q + q, 0), math.max(sum.r + r, 0), math.max(sum.a + a, 0)
  if is_active(known) then sum.n, sum.w = sum.n + 1, sum.w + known.w end
  if not waited and known.q > 0 then begin_waiting(flow, known, returning) end
  if waited and known.q == 0 then end_waiting(flow, known) end
  if known.r > 0 and returning == 0 and not waited and known.q == 0 then new_tag(flow, known) end
  known.changed = true
end

local function entry(name, want)
  return want.f .. ':' .. string.format('%016.0f', want.d[1] or FAR) .. ':' .. name
end

-- What is kept of when a member's requests are due, names and scores in turn.
local function list_returns(list, name, want)
  for n, due in ipairs(want.u or {}) do
    list[#list + 1] = string.format('%.0f', due)
    list[#list + 1] = want.f .. ':' .. n .. ':' .. name
  end
end

-- Who is expected back at another member and comes to this one is not expected there any more, and that member is
-- told so.
local function come_back(me, wants)
  local before, coming = {}, nil
  for _, want in ipairs(me.wants) do before[want.f] = want.q + kept(want) end
  for _, want in ipairs(wants) do
    if want.q + kept(want) > (before[want.f] or 0) then
      coming = coming or {}
      coming[want.f] = want.q + kept(want) - (before[want.f] or 0)
    end
  end
  if not coming then return end
  local from, to = string.format('%.0f', now - LATE), string.format('%.0f', now + EARLY)
  for _, due in ipairs(redis.call('ZRANGEBYSCORE', RETURNS, from, to, 'LIMIT', 0, RETURNING)) do
    local flow, name = string.match(due, '^(%x+):%d+:(.*)$')
    local member = (coming[flow] or 0) > 0 and name ~= step.me and record(name)
    if member then
      coming[flow] = coming[flow] - 1
      redis.call('ZREM', RETURNS, due)
      member.back, member.changed = member.back or {}, true
      if #member.back < RETURNING then member.back[#member.back + 1] = flow end
    end
  end
end

-- A member's requests from now on, in place of those that it told of before.
local function declare(name, member, wants)
  local before, after = {}, {}
  for _, want in ipairs(member.wants) do before[want.f] = want end
  for _, want in ipairs(wants) do after[want.f] = want end
  local due, gone = {}, {}
  for _, old in ipairs(member.wants) do list_returns(gone, name, old) end
  for _, new in ipairs(wants) do list_returns(due, name, new) end
  if #gone > 0 then redis.call('ZREM', RETURNS, unpack(gone)) end
  if #due > 0 then redis.call('ZADD', RETURNS, unpack(due)) end
  for flow, old in pairs(before) do
    if old.q > 0 then redis.call('ZREM', WAITS, entry(name, old)) end
    if not after[flow] then adjust(flow, nil, -old.q, -old.r, -old.a, -(old.x or 0)) end
  end
  for flow, new in pairs(after) do
    local old = before[flow] or { q = 0, r = 0, a = 0 }
    if new.q > 0 then redis.call('ZADD', WAITS, 0, entry(name, new)) end
    adjust(flow, new.w, new.q - old.q, new.r - old.r, new.a - old.a, new.x - (old.x or 0))
  end
  member.wants, member.changed = wants, true
end

-- One request fewer waits at a member: it is served, or has been.
local function uncount(name, member, flow)
  for _, want in ipairs(member.wants) do
    if want.f == flow and want.q > 0 then
      redis.call('ZREM', WAITS, entry(name, want))
      want.q = want.q - 1
      if #want.d > 1 then table.remove(want.d, 1) end
      if want.q > 0 then redis.call('ZADD', WAITS, 0, entry(name, want)) end
      adjust(flow, nil, -1, 0, 0)
      member.changed = true
      return
    end
  end
end

-- Whose turn the next slot is: the flow, and the member where its first request waits.
local function next_turn()
  for _ = 1, 8 do
    local class
    for c = 1, 8 do
      if state.flows[c] > 0 and (not class or state.keys[c] < state.keys[class]) then class = c end
    end
    if not class then return nil end
    local from, to = range_of(class)
    local flow = redis.call('ZRANGEBYSCORE', FLOWS, from, to, 'LIMIT', 0, 1)[1]
    local first = flow and redis.call('ZRANGEBYLEX', WAITS, '[' .. flow .. ':', '[' .. flow .. ';', 'LIMIT', 0, 1)[1]
    if first then return flow, string.sub(first, #flow + 19) end
    -- Only a key that was changed from outside leads here: the class begins anew.
    if flow then redis.call('ZREM', FLOWS, flow) end
    state.flows[class] = math.max(redis.call('ZCOUNT', FLOWS, from, to), 0)
  end
end

-- The turn is taken: class and flow move on, and one request fewer waits there.
local function take_turn(flow, name)
  local class, known = class_of(flow), info(flow)
  state.clock = math.max(state.clock, state.keys[class])
  state.keys[class] = state.keys[class] + 2 ^ (class - 1)
  state.clocks[class] = math.max(state.clocks[class], known.key)
  known.key = known.key + STRIDE / known.w
  -- What was kept for requests that were refused is not credit for further ones.
  if known.back then
    known.key, known.back = owed(flow, known, kept(known)), kept(known) > 0
  end
  local member = record(name)
  if member then uncount(name, member, flow) end
  if known.q > 0 then place(flow, known) end
  if state.flows[class] == 0 and state.clocks[class] > RENEW then
    redis.call('ZREMRANGEBYSCORE', IDLE, range_of(class))
    state.clocks[class] = 0
    -- Those who are expected begin again as well, or they would be last for as long as the class is not idle.
    for _, name in ipairs(redis.call('HKEYS', INFOS)) do info(name) end
    for name, expected in pairs(infos) do
      if class_of(name) == class then expected.key, expected.ended, expected.changed = nil, nil, true end
    end
  end
end

-- The slot of this charge was not used: its class and flow stand where they would stand without that turn. An order that has begun since
-- knows nothing of it.
local function give_turn_back(id, flow)
  local latest = redis.call('ZSCORE', FLYING, id)
  if not latest or tonumber(latest) - step.attempt < (state.began or 0) then return end
  local class, known = class_of(flow), info(flow)
  state.keys[class] = math.max(state.keys[class] - 2 ^ (class - 1), 0)
  for _, tag in ipairs({ 'key', 'ended' }) do
    known[tag] = known[tag] and math.max(known[tag] - STRIDE / known.w, 0)
  end
  if known.q > 0 then place(flow, known) elseif not is_active(known) then redis.call('ZREM', IDLE, flow) end
  known.changed = true
end

-- What was changed of members and flows is written.
local function write_order()
  for name, member in pairs(records) do
    if member and member.changed then
      member.changed = nil
      redis.call('HSET', MEMBERS, name, cmsgpack.pack(member))
    end
  end
  for flow, known in pairs(infos) do
    if known.changed then
      known.changed = nil
      local class = class_of(flow)
      if is_active(known) then
        redis.call('HSET', INFOS, flow, cmsgpack.pack(known))
      else
        redis.call('HDEL', INFOS, flow)
        -- What it had in advance is remembered until the others have had as much.
        local from = range_of(class)
        redis.call('ZREMRANGEBYSCORE', IDLE, from, string.format('%.0f', (class - 1) * BASE + state.clocks[class]))
        if known.ended and known.ended > state.clocks[class] then
          redis.call('ZADD', IDLE, string.format('%.0f', (class - 1) * BASE + known.ended), flow)
        end
      end
    end
  end
end

-- Where the next service of a flow ends, after the clock of its class.
local function position(flow, known)
  local clock = state.clocks[class_of(flow)]
  local tag = known.q > 0 and known.key or known.r > 0 and known.key and owed(flow, known, kept(known))
  return math.floor((tag or math.max(known.ended or 0, clock) + STRIDE / known.w) - clock)
end

-- Where classes and this member's flows stand, so that it foretells turns as they will be taken here.
local function standings(member, reply)
  local classes, positions = {}, {}
  for class = 1, 8 do
    local start = math.max(state.keys[class] - state.clock, 0)
    if start > 0 or state.sums[class].n > 0 then
      classes[#classes + 1] = { class - 1, start, math.floor(state.clocks[class]) }
    end
  end
  for n, want in ipairs(member.wants) do positions[n] = position(want.f, info(want.f)) end
  reply.classes = #classes > 0 and classes or nil
  reply.positions = #positions > 0 and positions or nil
end

-- Whether anybody waits, or is expected to ask: a member where nobody does is told of it as well, for those who come
-- to it next.
local function is_wanted()
  for class = 1, 8 do
    if state.sums[class].n > 0 then return true end
  end
  return false
end

-- Who is expected back at other members first, and when.
local function returns()
  redis.call('ZREMRANGEBYSCORE', RETURNS, '-inf', string.format('(%.0f', now - LATE))
  local list, found = {}, redis.call('ZRANGE', RETURNS, 0, 2 * RETURNING - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local flow, name = string.match(found[i], '^(%x+):%d+:(.*)$')
    local known = name and name ~= step.me and #list < RETURNING and info(flow)
    if known and known.r > 0 then list[#list + 1] = { flow, known.w, math.floor(tonumber(found[i + 1]) - now), position(flow, known) } end
  end
  return #list > 0 and list or nil
end

-- What the others want, for a forecast: the flows that are next in each class, and the rest of the class as one but
-- for those of whom it is told when they are due.
local function others(member, due)
  local own, list, seen = {}, {}, {}
  for _, want in ipairs(member.wants) do own[want.f] = want end
  for class = 1, 8 do
    local sum = state.sums[class]
    if sum.n > 0 then
      local rest = { w = sum.w, q = sum.q, r = sum.r, a = sum.a }
      local function leave_out(known) for k in pairs(rest) do rest[k] = rest[k] - known[k] end end
      local from, to = range_of(class)
      local listed, last = {}, STRIDE / math.max(rest.w, 1)
      for _, flow in ipairs(redis.call('ZRANGEBYSCORE', FLOWS, from, to, 'LIMIT', 0, LISTED)) do
        local known, mine = info(flow), own[flow] or { q = 0, r = 0, a = 0 }
        listed[flow], last = true, position(flow, known)
        leave_out(known)
        local q, r, a = known.q - mine.q, known.r - mine.r, known.a - mine.a
        if q > 0 or r > 0 or a > 0 then list[#list + 1] = { flow, known.w, q, r, a, last } end
      end
      for flow, mine in pairs(own) do
        if class_of(flow) == class and not listed[flow] then
          local known = info(flow)
          local is_alone = known.q == mine.q and known.r == mine.r and known.a == mine.a
          leave_out({ w = is_alone and known.w or 0, q = mine.q, r = mine.r, a = mine.a })
        end
      end
      for _, back in ipairs(due or {}) do
        local flow = back[1]
        if class_of(flow) == class and not listed[flow] then
          local known = info(flow)
          local is_whole = not seen[flow] and not own[flow] and known.q == 0 and known.a == 0
          seen[flow] = true
          leave_out({ w = is_whole and known.w or 0, q = 0, r = 1, a = 0 })
        end
      end
      if rest.q > 0 or rest.r > 0 or rest.a > 0 then
        -- Those that are not listed come after those that are.
        list[#list + 1] = {
          tostring(class - 1), math.max(rest.w, 1), math.max(rest.q, 0), math.max(rest.r, 0), math.max(rest.a, 0), math.floor(last),
        }
      end
    end
  end
  return #list > 0 and list or nil, due
end
