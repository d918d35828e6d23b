
-- What others use of the same quota, estimated from answers of 429: the shared form of foreign.rs, where it is explained. Calls, not rates;
-- times are microseconds. The ledger holds the replicas' own calls only.

local MARGIN, FORESEEN, NEAR, NEARLY_FULL, MOST, DECAY = 0.007, 0.05, 0.03, 0.8, 0.9, 1 / 300
local GAIN, DOUBLING, LEAST, STRETCH, KEPT = 0.5, 12, 0.25, 8, 8
local SECOND = 1000000
local FIRST_PROBE, LAST_PROBE, ROUNDING = 5 * SECOND, 60 * SECOND, 3 * SECOND

local longest = step.limits[#step.limits]
local short = #step.limits > 1 and step.limits[1].window or longest.window / 60

local function foreign()
  state.foreign = state.foreign or { measured = 0, calm = 0, holes = {}, claims = {} }
  return state.foreign
end

local function decay()
  return longest.calls * DECAY * (2 ^ math.min(20, foreign().calm * DOUBLING / longest.hold) - 1)
end

local function others()
  local measured = state.foreign and state.foreign.measured or 0
  return measured > 0 and math.max(0, measured - decay()) or 0
end

-- For how long, up to that moment, no calls of others leave the window.
local function hole(till)
  local sum = 0
  for _, entry in ipairs(foreign().holes) do
    sum = sum + math.max(0, math.min(entry[2], till) - math.max(entry[1], now))
  end
  return sum
end

local function presence() return 1 - hole(now + longest.hold) / longest.hold end

local function spare(own) return longest.calls - own - others() * presence() end

-- The replicas' calls in the long window, without the one that was just answered; and when the first of them leaves.
local function own_calls() return math.max(0, used(longest) - 1) end

local function next_return()
  local first = redis.call('ZRANGEBYSCORE', PAST, '(' .. string.format('%.0f', now - longest.hold), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return first[2] and tonumber(first[2]) + longest.hold
end

local function measure(own, wait, sure, from)
  local f = foreign()
  if wait then f.holes = { { from, from + wait } } end
  local part = 1
  if wait then part = 1 - wait / longest.hold else part = presence() end
  local target = (longest.calls - own) / math.max(0.25, part) + MARGIN * longest.calls
  target = math.min(target, MOST * longest.calls)
  local before = others()
  local gain = (sure or before <= 0) and 1 or GAIN
  f.measured, f.calm = before + math.max(0, target - before) * gain, 0
end

local function is_believable(said, which, own)
  if which == 'other' then return false end
  local long = said.wait and said.wait > short
  if which == 'long' and long then return true end
  if others() > 0 and spare(own) <= FORESEEN * longest.calls then return true end
  local back = long and next_return()
  if back and math.abs(back - now - said.wait) <= ROUNDING then return true end
  local near = 0
  for _, claim in ipairs(foreign().claims) do
    if now - claim[1] < longest.hold and math.abs(own - claim[2]) <= NEAR * longest.calls then near = near + 1 end
  end
  return near >= (own >= NEARLY_FULL * longest.calls and 1 or 2)
end

-- A call was refused, and that is news; returns how long to wait.
local function refuse(said)
  local f, own, which = foreign(), own_calls(), 'unnamed'
  for _, limit in ipairs(step.limits) do
    if limit.window == said.window then which = limit == longest and 'long' or 'other' end
  end
  local run = f.run
  if run then
    run.left, run.next = math.max(0, run.own + run.refusals - own), next_return()
    run.refusals, run.probed = run.refusals + 1, run.probed or now
  else
    run = { since = now, own = own, refusals = 1, left = 0, next = next_return(), elsewhere = which == 'other' }
    run.believed = is_believable(said, which, own)
    f.run = run
    local long = said.wait and said.wait > short and said.wait or nil
    if run.believed then measure(own, long, which == 'long' or long, now) end
  end
  if said.wait then
    return math.max(said.wait, SECOND, run.probed and math.min((now - run.probed) / STRETCH, LAST_PROBE) or 0)
  end
  return math.min(math.max(now - run.since, math.min(FIRST_PROBE, short)), LAST_PROBE)
end

-- Refusals are over. Those that took long and named no window are explained when our own earliest call left just then.
local function resume(f, run)
  local few, long = MARGIN * longest.calls, now - run.since >= short
  f.run = nil
  if long then
    local is_full = not run.elsewhere and run.left <= few and run.own < longest.calls - 2 * few
    if not run.believed and is_full and run.next and run.next <= now then
      measure(run.own, run.next - run.since, true, run.since)
    end
    f.holes[#f.holes + 1] = { run.since + longest.hold, now + longest.hold }
    while #f.holes > KEPT do table.remove(f.holes, 1) end
    fill()
    state.level = math.min(state.level, math.max(step.burst / 10, 1))
  elseif not run.believed and not run.elsewhere and run.refusals <= 3 then
    f.claims[#f.claims + 1] = { now, run.own }
    while #f.claims > KEPT do table.remove(f.claims, 1) end
  end
  upset()
end

-- Nothing is refused: the estimate shrinks while the window is as good as full, and at once when it should be over.
local function go_on(f, own)
  local room, margin = spare(own), MARGIN * longest.calls
  if room < -margin then
    f.measured, f.calm = others() - math.max(1, (longest.calls - others()) / 16), 0
  elseif room < 2 * margin + decay() then
    f.calm = f.calm + (f.seen and math.min(now - f.seen, longest.hold / 60) or 0)
  end
  if others() <= 0 then f.measured, f.calm = 0, 0 end
  if math.abs(others() - (f.planned or 0)) >= math.max(0.05, longest.calls / 500) then upset() end
end

local function accepted()
  local f = state.foreign
  if not f or not (f.run or f.measured > 0 or #f.claims > 0) then return end
  local own = own_calls()
  local claims = {}
  for _, claim in ipairs(f.claims) do
    if own < claim[2] + MARGIN * longest.calls then claims[#claims + 1] = claim end
  end
  f.claims = claims
  while f.holes[1] and f.holes[1][2] <= now do table.remove(f.holes, 1) end
  if f.run then resume(f, f.run) elseif f.measured > 0 then go_on(f, own) end
  f.seen = now
end

-- The call of this charge was answered, and not with a 429.
local function accept(id, age)
  local was_flying = redis.call('ZSCORE', FLYING, id)
  settle(id, age)
  if was_flying and not state.gate then accepted() end
end

-- The upstream said 429: everybody pauses. What had left before the pause tells nothing new, but a wait that it names is kept.
local function throttle(said)
  local gate = state.gate
  local is_news = not gate or gate.probe == said.id
  settle(said.id, said.age)
  local wait
  if is_news then wait = refuse(said) else wait = said.wait end
  if not wait then return end
  local till = math.max(now, now - said.age + math.min(wait, step.longest_pause))
  if gate and gate.till then till = math.max(till, gate.till) end
  state.gate = { till = till }
  upset()
end

-- The plan of the bucket: see pace.rs.
local function replan()
  local returns = {}
  local past = redis.call('ZRANGEBYSCORE', PAST, '(' .. string.format('%.0f', now - longest.hold), '+inf', 'WITHSCORES')
  for i = 2, #past, 2 do returns[#returns + 1] = tonumber(past[i]) + longest.hold end
  local flying = redis.call('ZRANGE', FLYING, 0, -1, 'WITHSCORES')
  for i = 2, #flying, 2 do
    returns[#returns + 1] = math.max(tonumber(flying[i]) - step.attempt + step.landing, now) + longest.hold
  end
  local theirs, free = others(), longest.calls - #returns
  if theirs > 0 then free = math.min(free, math.max(0, spare(#returns))) end
  state.level = math.min(state.level, math.max(free, theirs > 0 and 1 or 0))
  local left = free - state.level
  state.rate, state.plan = (left + #returns) / longest.hold, now + longest.hold
  if theirs > 0 then state.rate = math.min(state.rate, (longest.calls - theirs) / longest.hold) end
  local fair = state.rate
  for k, back in ipairs(returns) do
    local taken = theirs > 0 and theirs / longest.hold * hole(back) or 0
    local sustainable = (left + k - ((theirs > 0 or #returns > 10) and 1 or 0) - taken) / (back - now)
    if back > now and sustainable < state.rate then state.rate, state.plan = sustainable, back end
  end
  if theirs > 0 then
    -- An estimate slows down, it does not stop; and it is soon another one.
    state.rate, state.plan = math.max(state.rate, fair * LEAST), math.min(state.plan, now + longest.hold / 60)
    state.foreign.planned = theirs
  end
end

local function foreseen()
  local holes = {}
  for n, entry in ipairs(state.foreign and state.foreign.holes or {}) do holes[n] = { entry[1] - now, entry[2] - now } end
  return math.floor(others() + 0.5), #holes > 0 and holes or nil
end
