-- how jobs are paid for, by an index each: the entries of a batch's ends were found by reading the accounts of all users, and joined
-- with each other row by row. and whatever the size of the tables was when a connection planned its statements, a submission, a grant
-- or the end of a job reads none of them whole, nor do the foreign keys and the ledger's checks that look rows up for them.
-- `journal_commit` lets the planner choose again before it calls the ledger: the functions here choose for themselves.

grant flowai_ledger to current_user;
grant usage on sequence ledger_txns_id_seq to flowai_ledger;

-- ends the holds of jobs that have ended in this transaction, by how their rows say they ended: delivered, all of it is captured;
-- cancelled, the share of the steps that were done (rounded down, and none where they are not known); else all of it goes back to
-- where it came from. a hold that has ended already stays as it is, and so does that of a job that has not.
create or replace function ledger_end_holds(videos uuid[], steps_done int[], steps_total int[]) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
    -- each join below is by a key.
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    revenue bigint;
begin
    -- after the rows of the jobs and of the users' streams; the lots are safe behind these.
    perform from credit_balances b
      where b.owner_id in (select h.owner_id from credit_holds h where h.job_id = any (videos) and h.state = 'held')
      order by b.owner_id for update;
    select a.id into revenue from ledger_accounts a where a.owner_id is null and a.kind = 'revenue';
    with wanted as (
        select w.job_id, s.attempt, s.epoch,
               case when s.state = 'done' then h.amount_mc
                    when s.state = 'cancelled' and w.total > 0
                    then div(h.amount_mc::numeric * greatest(0, least(coalesce(w.done, 0), w.total)), w.total)::bigint
                    else 0 end as captured_mc
          from unnest(videos, steps_done, steps_total) as w (job_id, done, total)
          join job_state s on s.job_id = w.job_id and s.finished_at is not null
          join credit_holds h on h.job_id = w.job_id and h.state = 'held'
    ), ended as (
        update credit_holds h
           set captured_mc = w.captured_mc, ended_at = now(),
               state = case when w.captured_mc > 0 then 'captured' else 'released' end
          from wanted w
         where h.job_id = w.job_id and h.state = 'held'
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
         where l.id = b.lot_id
    ), balance as (
        update credit_balances b
           set held_mc = b.held_mc - e.amount_mc, available_mc = b.available_mc + e.amount_mc - e.captured_mc
          from (select owner_id, sum(amount_mc)::bigint as amount_mc, sum(captured_mc)::bigint as captured_mc
                  from ended group by owner_id) e
         where b.owner_id = e.owner_id
    ), txn as (
        insert into ledger_txns (id, kind, business_id, owner_id, job_id, attempt, epoch) overriding system value
        select p.txn_id, p.kind, p.kind || ':' || p.job_id, p.owner_id, p.job_id, p.attempt, p.epoch from part p
    )
    insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
    select p.txn_id, 0, a.id, null::bigint, -p.mc
      from part p join ledger_accounts a on a.owner_id = p.owner_id and a.kind = 'held'
    union all
    select p.txn_id, 1, revenue, null, p.mc from part p where p.kind = 'capture'
    union all
    select b.txn_id, b.place, a.id, b.lot_id, b.mc
      from back b join ledger_accounts a on a.owner_id = b.owner_id and a.kind = 'available' where b.mc > 0;
end;
$$;

alter function ledger_end_own_hold(uuid) set enable_seqscan = off;
alter function ledger_grant(uuid, text, text, bigint, uuid, text) set enable_seqscan = off;
alter function ledger_demand_entries() set enable_seqscan = off;
revoke flowai_ledger from current_user;

alter function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, text, uuid, jsonb, bigint, int, text, bytea, int,
    jsonb)
    set enable_seqscan = off;
alter function submit_videos(
    uuid, uuid[], timestamptz, jsonb[], jsonb[], text[], uuid[], text[], uuid[], uuid[], text[], uuid[], text[], uuid[], jsonb,
    bigint[], int, text, bytea, int, jsonb)
    set enable_seqscan = off;
