
-- A replica that has nothing to say, in a ledger where nothing is due, only shows that it is
-- alive. Most steps of many replicas are such, and what follows this part would cost them more
-- than the store's commands do: so they end here, as they would end there, with the same answer:
-- `tests/idle.rs` compares the two.

do
  -- Nothing that this step could change or tell: the members know of each other and of all
  -- charges, and nobody waits, is offered a slot, or is expected back.
  local function is_quiet()
    if step.leave or step.wants or step.flows or step.copy then return false end
    if step.settled or step.refunded or step.throttled or step.lost then return false end
    if is_lost() or step.epoch ~= state.epoch or state.merging or state.offered ~= 0 then return false end
    if state.gate or state.foreign or state.slow or state.told then return false end
    if step.want > 0 or step.seq ~= state.seq or step.gen ~= state.gen or state.known ~= state.gen then return false end
    if step.keep > state.keep or step.most > state.most or state.plan <= now then return false end
    for class = 1, 8 do
      if state.sums[class].n > 0 then return false end
    end
    return true
  end

  -- No charge moves or is forgotten, and no lease ends.
  local function is_nothing_due()
    local till = string.format('%.0f', now)
    return redis.call('ZCOUNT', FLYING, '-inf', till) == 0
      and redis.call('ZCOUNT', PAST, '-inf', string.format('%.0f', now - state.keep)) == 0
      and redis.call('ZCOUNT', LEASES, '-inf', '(' .. till) == 0
      and count(PAST) <= state.most
      and count(LOG) <= 4 * state.most + 1000
  end

  -- The record of this member, when it has to be changed in nothing but the number of its latest
  -- step.
  local function unchanged_member()
    local me = own_record()
    local is_same = me and step.call > me.call and not me.again and not me.due and not me.back and #me.offers == 0
    return is_same and tonumber(redis.call('ZSCORE', SEEN, step.me)) == step.gen and me or nil
  end

  if state and redis.call('GET', FORMAT) == step.format and is_quiet() and is_nothing_due() then
    local me = unchanged_member()
    if me then
      me.call = step.call
      redis.call('HSET', MEMBERS, step.me, cmsgpack.pack(me))
      redis.call('ZADD', LEASES, string.format('%.0f', now + step.lease), step.me)
      fill()
      state.last = now
      redis.call('SET', STATE, cmsgpack.pack(state))
      redis.call('SET', FORMAT, step.format, 'PX', step.quiet)
      return cjson.encode({
        epoch = state.epoch, now = string.format('%.0f', now), seq = state.seq, gen = state.gen, replicas = count(JOINED),
        level = state.level, rate = state.rate * 1000000, plan = state.plan - now, unpaced = is_unpaced() or nil, paced = paced(),
      })
    end
  end
end
