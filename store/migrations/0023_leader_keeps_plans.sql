-- the leader's statements keep their plans. the planner takes a list of three for cheaper than a list of unknown length, so it planned
-- them anew for each batch: it thought for longer than it read. a plan that is kept must be good whatever grows under it: each row is
-- looked up by its key, which a sub-select that stays one (`offset 0`) and a list of keys say, where a join leaves a choice.

-- a job as a leader reads it.
create view leader_job with (security_invoker = true) as
select s.job_id, s.owner_id, a.tier, j.class,
       greatest(0, extract(epoch from now() - greatest(j.created_at, p.finished_at)) * 1000)::bigint as waited_ms,
       j.after_id, p.state as after_state, j.model_id, j.spec::text as spec, s.state, s.attempt, s.epoch, s.node_id, s.generation,
       t.failures, t.failed_on, t.died_on, t.preemptions, s.node_deaths, s.cancel_requested_at is not null as cancel_requested,
       k.step as kept_step, k.device_class as kept_class, s.finished_at,
       -- the same, of the other table: whoever reads a range bounds both, or the planner reads one of them from its beginning.
       j.id as spec_of
  from job_state s
  join job j on j.id = s.job_id
  join account a on a.id = s.owner_id
  left join job_state p on p.job_id = j.after_id
  left join checkpoint k on k.job_id = s.job_id
 cross join lateral (
       select count(*) filter (where outcome in ('failed', 'lost')) as failures,
              coalesce(array_agg(distinct node_id) filter (where outcome in ('failed', 'lost')), '{}') as failed_on,
              coalesce(array_agg(distinct node_id) filter (where outcome = 'lost'), '{}') as died_on,
              -- `MADE_ROOM` in store/src/journal.
              count(*) filter (where outcome = 'stopped' and starts_with(detail, 'made room for another job')) as preemptions
         from attempt
        where s.attempt > 0 and job_id = s.job_id and outcome in ('failed', 'lost', 'stopped')) t;
grant select on leader_job to flowai_coordinator;

-- these jobs, in no order. those that do not exist are left out.
create function leader_jobs(wanted uuid[]) returns setof leader_job
    language plpgsql stable
    set search_path = public, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select r.* from unnest(wanted) as w (id), lateral (select l.* from leader_job l where l.job_id = w.id offset 0) r;
end;
$$;
revoke all on function leader_jobs(uuid[]) from public;
grant execute on function leader_jobs(uuid[]) to flowai_coordinator;

alter function journal_commit(int, jsonb) set plan_cache_mode = force_generic_plan;

grant flowai_ledger to current_user;

-- as in 0021, and no index is read from end to end.

-- ends the holds of jobs that have ended in this transaction, by how their rows say they ended: delivered, all of it is captured;
-- cancelled, the share of the steps that were done (rounded down, and none where they are not known); else all of it goes back to
-- where it came from. a hold that has ended already stays as it is, and so does that of a job that has not.
create or replace function ledger_end_holds(videos uuid[], steps_done int[], steps_total int[]) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    revenue bigint;
begin
    -- after the rows of the jobs and of the users' streams; the lots are safe behind these.
    perform from credit_balances b
      where b.owner_id = any (array(select h.owner_id from credit_holds h where h.job_id = any (videos) and h.state = 'held'))
      order by b.owner_id for update;
    select a.id into revenue from ledger_accounts a where a.owner_id is null and a.kind = 'revenue';
    with wanted as (
        select w.job_id, s.attempt, s.epoch,
               case when s.state = 'done' then h.amount_mc
                    when s.state = 'cancelled' and w.total > 0
                    then div(h.amount_mc::numeric * greatest(0, least(coalesce(w.done, 0), w.total)), w.total)::bigint
                    else 0 end as captured_mc
          from unnest(videos, steps_done, steps_total) as w (job_id, done, total),
               lateral (select s.state, s.attempt, s.epoch from job_state s
                         where s.job_id = w.job_id and s.finished_at is not null offset 0) s,
               lateral (select h.amount_mc from credit_holds h where h.job_id = w.job_id and h.state = 'held' offset 0) h
    ), ended as (
        update credit_holds h
           set captured_mc = w.captured_mc, ended_at = now(),
               state = case when w.captured_mc > 0 then 'captured' else 'released' end
          from wanted w
         where h.job_id = w.job_id and h.job_id = any (videos) and h.state = 'held'
        returning h.job_id, h.owner_id, h.amount_mc, h.captured_mc, h.lot_ids, h.lot_mcs, w.attempt, w.epoch
    ), part as materialized (
        select nextval('ledger_txns_id_seq') as txn_id, p.kind, p.mc, e.*
          from ended e, lateral (values ('capture', e.captured_mc), ('release', e.amount_mc - e.captured_mc)) as p (kind, mc)
         where p.mc > 0
    ), back as materialized (
        -- the lots that were taken first are captured first.
        select p.txn_id, p.owner_id, l.lot_id, l.place,
               l.mc - greatest(0, least(l.mc, p.captured_mc - (sum(l.mc) over (partition by p.txn_id order by l.place) - l.mc)))::bigint as mc
          from part p, unnest(p.lot_ids, p.lot_mcs) with ordinality as l (lot_id, mc, place)
         where p.kind = 'release'
    ), lots as (
        update credit_lots l set remaining_mc = l.remaining_mc + b.mc
          from (select lot_id, sum(mc)::bigint as mc from back where mc > 0 group by lot_id) b
         where l.id = b.lot_id and l.id = any (array(select b.lot_id from back b where b.mc > 0))
    ), balance as (
        update credit_balances b
           set held_mc = b.held_mc - e.amount_mc, available_mc = b.available_mc + e.amount_mc - e.captured_mc
          from (select owner_id, sum(amount_mc)::bigint as amount_mc, sum(captured_mc)::bigint as captured_mc
                  from ended group by owner_id) e
         where b.owner_id = e.owner_id and b.owner_id = any (array(select e.owner_id from ended e))
    ), txn as (
        insert into ledger_txns (id, kind, business_id, owner_id, job_id, attempt, epoch) overriding system value
        select p.txn_id, p.kind, p.kind || ':' || p.job_id, p.owner_id, p.job_id, p.attempt, p.epoch from part p
    )
    insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
    select p.txn_id, 0, (select a.id from ledger_accounts a where a.owner_id = p.owner_id and a.kind = 'held'), null::bigint, -p.mc
      from part p
    union all
    select p.txn_id, 1, revenue, null, p.mc from part p where p.kind = 'capture'
    union all
    select b.txn_id, b.place, (select a.id from ledger_accounts a where a.owner_id = b.owner_id and a.kind = 'available'), b.lot_id, b.mc
      from back b where b.mc > 0;
end;
$$;
revoke flowai_ledger from current_user;
