
-- What others use of the same quota, estimated from answers of 429: the shared form of foreign.rs, where it is explained. Calls, not rates;
-- times are microseconds. The ledger holds the replicas' own calls only.

local MARGIN, FORESEEN, NEAR, NEARLY_FULL, MOST, DECAY = 0.007, 0.05, 0.03, 0.8, 0.9, 1 / 300
local GAIN, DOUBLING, LEAST, STRETCH, KEPT = 0.5, 12, 0.25, 8, 8
local SECOND, SMALL = 1000000, 100
-- Latest refusals that are known when they are told again: so many may be refused at once.
local MOST_TOLD = math.max(32, step.burst)
local FIRST_PROBE, LAST_PROBE, ROUNDING = 5 * SECOND, 60 * SECOND, 3 * SECOND
local LONG, MOST_CONFIRMED, SURE, MOST_REFUTED, SOON = 5, 3, 2, 3, 4 -- the latter of trials: see trial.rs

local longest = step.limits[#step.limits]
local short = #step.limits > 1 and step.limits[1].window or longest.window / 60

local function nothing_foreign(refuted)
  return { measured = 0, calm = 0, told = now, holes = {}, claims = {}, confirmed = 0, unproved = 0, refuted = refuted }
end

local function foreign()
  if not state.foreign or not state.foreign.confirmed then state.foreign = nothing_foreign(0) end
  return state.foreign
end

local function decay()
  local f = foreign()
  local calm = math.max(f.calm, f.told and now - f.told - longest.hold or 0)
  return longest.calls * DECAY * (2 ^ math.min(20, calm * DOUBLING / longest.hold) - 1)
end

local function others()
  local measured = state.foreign and state.foreign.measured or 0
  return measured > 0 and math.max(0, measured - decay()) or 0
end

-- What the pace leaves room for: nothing in a trial.
local function respected()
  local trial = state.foreign and state.foreign.trial
  return trial and trial.since and 0 or others()
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

-- The replicas' calls in the long window, without the one that was just answered; those that were answered, with it; and when the first of
-- them leaves.
local function own_calls() return math.max(0, used(longest) - 1) end
local function answered_calls() return used(longest) - count(FLYING) end

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
  local gain = (sure or before <= 0 or f.confirmed >= SURE) and 1 or GAIN
  f.measured, f.calm, f.told = before + math.max(0, target - before) * gain, 0, now
end

-- Which window is full, by what the refusal names. One that names neither a window nor a long wait is taken for that of the window which
-- the replicas' own calls fill most.
local function which_window(said)
  local which, fill = 'unnamed', used(longest) / longest.calls
  for _, limit in ipairs(step.limits) do
    if limit.window == said.window then which = limit == longest and 'long' or 'other' end
  end
  if which ~= 'unnamed' then return which end
  for _, limit in ipairs(step.limits) do
    local fits = limit ~= longest and not (said.wait and said.wait > limit.window)
    if fits and used(limit) / limit.calls > fill then return 'other' end
  end
  return which
end

local function is_believable(said, which, own)
  if which == 'other' then return false end
  local long = said.wait and said.wait > short
  if which == 'long' and long then return true end
  local back = next_return()
  -- Of calls that leave earlier than the wait says, ours would make room earlier.
  if which == 'unnamed' and said.wait and not (back and said.wait <= back - now + ROUNDING) then return false end
  if others() > 0 and spare(own) <= FORESEEN * longest.calls then return true end
  if long and back and back - now <= said.wait + ROUNDING then return true end
  local near, answered = 0, answered_calls()
  for _, claim in ipairs(foreign().claims) do
    if now - claim[1] < longest.hold and math.abs(answered - claim[2]) <= NEAR * longest.calls then near = near + 1 end
  end
  return near >= (own >= NEARLY_FULL * longest.calls and 1 or 2) + foreign().refuted
end

-- A call was refused, which ends a trial: soon, when the window is full.
local function end_trial(f, believed)
  local trial = f.trial
  f.trial = nil
  if not (trial and trial.since) then return end
  if believed and trial.accepted <= SOON then
    f.confirmed, f.unproved, f.refuted = math.min(f.confirmed + 1, MOST_CONFIRMED), 0, 0
  else
    f.confirmed = math.max(0, f.confirmed - 1)
  end
end

-- A call was accepted in a trial. Returns whether that is all there is to it.
local function try_on(f, own)
  local trial = f.trial
  if not (trial and trial.since) then return false end
  trial.accepted = trial.accepted + 1
  local climbed = answered_calls() - trial.from
  if climbed >= math.max(1, MARGIN * longest.calls) or (own + 1 >= longest.calls and climbed > 0) then
    state.foreign = nothing_foreign(math.min(f.refuted + 1, MOST_REFUTED))
    upset()
  elseif now - trial.since < short then
    fill()
    state.level = math.max(state.level, 1)
  else
    f.trial = nil
    upset()
  end
  return true
end

-- A call was accepted that was in flight when another was refused; and one that was refused as well.
local function accept_late()
  local f = state.foreign
  if f and f.run then f.run.answered = (f.run.answered or f.run.own) + 1 end
end

local function refuse_late()
  accept_late()
  for _, claim in ipairs(state.foreign and state.foreign.claims or {}) do claim[2] = claim[2] + 1 end
end

-- A call was refused, and that is news; returns how long to wait.
local function refuse(said)
  accept_late()
  local f, own, which = foreign(), own_calls(), which_window(said)
  local run = f.run
  if run then
    run.left, run.next = math.max(0, run.own + run.refusals - own), next_return()
    run.refusals, run.probed = run.refusals + 1, run.probed or now
    if run.believed then f.told = now end
  else
    run = {
      since = now, own = own, answered = answered_calls(), refusals = 1, left = 0, next = next_return(), elsewhere = which == 'other',
    }
    run.believed = is_believable(said, which, own)
    f.run = run
    end_trial(f, run.believed)
    local long = said.wait and said.wait > short and said.wait or nil
    local sure = which == 'long' or (long and long > LONG * short)
    if run.believed then measure(own, long, sure, now) end
    if run.believed and not sure then
      f.unproved = f.unproved + 1
      if f.unproved >= 2 ^ f.confirmed then f.trial = { from = own, accepted = 0 } end
    end
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
    local is_full = not run.elsewhere and run.refusals > 1 and run.left <= few and run.own < longest.calls - 2 * few
    if not run.believed and is_full and run.next and run.next <= now and run.next > run.since + short then
      measure(run.own, run.next - run.since, true, run.since)
    end
    f.holes[#f.holes + 1] = { run.since + longest.hold, now + longest.hold }
    while #f.holes > KEPT do table.remove(f.holes, 1) end
    if run.believed or run.refusals > 1 then
      fill()
      state.level = math.min(state.level, math.max(step.burst / 10, 1))
    end
  elseif not run.believed and not run.elsewhere and run.refusals <= 3 then
    f.claims[#f.claims + 1] = { now, run.answered or run.own }
    while #f.claims > KEPT do table.remove(f.claims, 1) end
  end
  if now - run.since >= LONG * short then f.trial = nil elseif f.trial then f.trial.since = now end
  state.slow = { since = now, latest = now, issued = 0, accepted = 1 }
  upset()
end

-- The first calls after refusals: see slow_start.rs. How many may go now, and when the n-th may.
local function slowly()
  local slow = state.slow
  if not slow then return math.huge end
  return math.max(slow.accepted + math.min(slow.accepted, math.max(math.floor(step.burst / 10), 1)) - slow.issued, 0)
end

local function slowly_at(n)
  local free = slowly()
  return n <= free and now or state.slow.latest + (n - free) * SECOND
end

local function speed_up()
  local slow = state.slow
  if not slow then return end
  slow.accepted = slow.accepted + 1
  if slow.accepted >= step.burst then state.slow = nil end
end

-- Nothing is refused: the estimate shrinks while the window is as good as full, and at once when it should be over.
local function go_on(f, own)
  local room, margin = spare(own), MARGIN * longest.calls
  if room < -margin then
    f.measured, f.calm, f.told = others() - math.max(1, (longest.calls - others()) / 16), 0, now
  elseif room < 2 * margin + decay() then
    f.calm = f.calm + (f.seen and math.min(now - f.seen, longest.hold / 60) or 0)
  end
  if others() <= 0 then f.measured, f.calm, f.confirmed, f.unproved, f.trial = 0, 0, 0, 0, nil end
  if math.abs(others() - (f.planned or 0)) >= math.max(0.05, longest.calls / 500) then upset() end
end

local function accepted()
  if not state.foreign then return end
  local f = foreign()
  if not (f.run or f.measured > 0 or #f.claims > 0) then return end
  local own, answered, claims = own_calls(), answered_calls(), {}
  for _, claim in ipairs(f.claims) do
    if answered < claim[2] + MARGIN * longest.calls then claims[#claims + 1] = claim end
  end
  f.claims = claims
  while f.holes[1] and f.holes[1][2] <= now do table.remove(f.holes, 1) end
  if f.run then resume(f, f.run) elseif not try_on(f, own) and f.measured > 0 then go_on(f, own) end
  f.seen = now
end

-- The call of this charge was answered, and not with a 429.
local function accept(id, age)
  local was_flying = redis.call('ZSCORE', FLYING, id)
  settle(id, age)
  if was_flying then
    if state.gate then
      accept_late()
    else
      speed_up()
      accepted()
    end
  end
end

-- Whether a replica has told this before: it tells it again when it does not hear the answer.
local function is_told(id)
  local told = state.told or {}
  for _, known in ipairs(told) do
    if known == id then return true end
  end
  told[#told + 1] = id
  if #told > MOST_TOLD then table.remove(told, 1) end
  state.told = told
  return false
end

-- The upstream said 429: everybody pauses. What had left before the pause tells nothing new, but a wait that it names is kept.
local function throttle(said)
  if is_told(said.id) then return end
  local gate = state.gate
  local is_news = not gate or gate.probe == said.id
  settle(said.id, said.age)
  local wait
  if is_news then
    wait = refuse(said)
  else
    refuse_late()
    wait = said.wait
  end
  if not wait then return end
  local till = math.max(now, now - said.age + math.min(wait, step.longest_pause))
  if gate and gate.till then till = math.max(till, gate.till) end
  state.gate, state.slow = { till = till }, nil
  upset()
end

-- What refusals have left ends with time too: then steps that have nothing to say end early again.
local function forget_refusals()
  local f, gate, slow = state.foreign, state.gate, state.slow
  if slow and now - slow.latest >= math.max(short, 300 * SECOND) then state.slow = nil end
  if gate and gate.till and now - gate.till > longest.hold then
    state.gate = nil
    if f then f.run, f.trial = nil, nil end
  end
  -- Nobody told what became of the probe.
  if f and f.run and not state.gate and now - math.max(f.run.since, f.told or 0) > longest.hold then f.run = nil end
  if f and not f.run then
    f.told = f.told or now -- an earlier version has measured it
    local latest = f.claims[#f.claims]
    local is_over = now - f.told > longest.hold and others() <= 0 and not (latest and now - latest[1] < longest.hold)
    if is_over and not (f.holes[#f.holes] and f.holes[#f.holes][2] > now) then state.foreign = nil end
  end
  if not state.foreign and not state.gate then state.told = nil end
end

-- The plan of the bucket: see pacer.rs.
local function replan()
  local returns = {}
  local past = redis.call('ZRANGEBYSCORE', PAST, '(' .. string.format('%.0f', now - longest.hold), '+inf', 'WITHSCORES')
  for i = 2, #past, 2 do returns[#returns + 1] = tonumber(past[i]) + longest.hold end
  local flying = redis.call('ZRANGE', FLYING, 0, -1, 'WITHSCORES')
  for i = 2, #flying, 2 do
    returns[#returns + 1] = math.max(tonumber(flying[i]) - step.attempt + step.landing, now) + longest.hold
  end
  -- More than the window allows are in it when limits were lowered, or when what is not known counts as much as can have been.
  local theirs, free = respected(), math.max(0, longest.calls - #returns)
  if theirs > 0 then free = math.min(free, math.max(0, spare(#returns))) end
  state.level = math.min(state.level, math.max(free, 1))
  local left = free - state.level
  -- Only in a small window the call that a return makes room for is ready when it comes.
  local ready = theirs <= 0 and longest.calls <= SMALL and 1 or 0
  state.rate, state.plan = math.min(left + #returns + ready, free + #returns) / longest.hold, now + longest.hold
  if theirs > 0 then state.rate = math.min(state.rate, (longest.calls - theirs) / longest.hold) end
  local fair = state.rate
  for k, back in ipairs(returns) do
    local taken = theirs > 0 and theirs / longest.hold * hole(back) or 0
    local sustainable = (left + k - 1 + ready - taken) / (back - now)
    if back > now and sustainable < state.rate then state.rate, state.plan = sustainable, back end
  end
  if theirs > 0 then
    -- An estimate slows down, it does not stop; and it is soon another one.
    local least = math.min(fair * LEAST, step.unpaced and 1 / LAST_PROBE or math.huge)
    state.rate, state.plan = math.max(state.rate, least), math.min(state.plan, now + longest.hold / 60)
    state.foreign.planned = theirs
  end
  state.rate = math.max(state.rate, 0)
end

-- Calls that may go however little the bucket holds: without pacing, all that others are not estimated to use.
local function unpaced_calls()
  if not is_unpaced() then return 0 end
  if respected() <= 0 then return math.huge end
  return math.max(0, math.floor(spare(used(longest))))
end

-- When n calls may go as far as the bucket goes.
local function bucket(n)
  if n <= unpaced_calls() then return now end
  local missing = n - 0.000001 - state.level
  if missing <= 0 then return now end
  local at = math.min(state.rate > 0 and now + missing / state.rate or math.huge, state.plan)
  return math.min(at, is_unpaced() and next_return() or math.huge)
end

local function foreseen()
  local holes = {}
  for n, entry in ipairs(state.foreign and state.foreign.holes or {}) do holes[n] = { entry[1] - now, entry[2] - now } end
  return math.floor(others() + 0.5), #holes > 0 and holes or nil
end
