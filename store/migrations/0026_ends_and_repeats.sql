-- what ended says which: an api forgets what it remembers of those, and of nothing else.

grant flowai_auth, flowai_ledger to current_user;
grant create on schema public to flowai_auth;

-- as `auth_rotate` and `auth_end_sign_ins` in 0006, which apis of the build before call still; a token that comes again says whose sign-in
-- it has ended.
create function auth_rotate_sign_in(family bytea, secret bytea, new_secret bytea, grace interval, until timestamptz)
    returns table (user_id uuid, sign_in_id uuid, verdict text)
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    return query
        update sign_in s
           set secret_hash = new_secret, previous_hash = secret, rotated_at = now(), expires_at = until
         where s.family_hash = family and s.secret_hash = secret and s.revoked_at is null and s.expires_at > now()
        returning s.user_id, s.id, 'rotated'::text;
    if found then
        return;
    end if;
    return query
        select s.user_id, s.id, 'grace'::text from sign_in s
         where s.family_hash = family and s.previous_hash = secret and s.revoked_at is null and s.expires_at > now()
           and s.rotated_at > now() - grace;
    if found then
        return;
    end if;
    return query
        update sign_in s set revoked_at = now() where s.family_hash = family and s.revoked_at is null
        returning s.user_id, s.id, 'ended'::text;
end;
$$;

create function auth_close_sign_ins(for_user uuid, only_id uuid) returns setof uuid
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    update sign_in set revoked_at = now()
     where user_id = for_user and revoked_at is null and (only_id is null or id = only_id)
    returning id;
end;
alter function auth_rotate_sign_in(bytea, bytea, bytea, interval, timestamptz) owner to flowai_auth;
alter function auth_close_sign_ins(uuid, uuid) owner to flowai_auth;
revoke all on function
    auth_rotate_sign_in(bytea, bytea, bytea, interval, timestamptz), auth_close_sign_ins(uuid, uuid)
    from public;
grant execute on function
    auth_rotate_sign_in(bytea, bytea, bytea, interval, timestamptz), auth_close_sign_ins(uuid, uuid)
    to flowai_app;

-- as in 0010 and 0021; a repeat is of the same reason too: what is answered is what the ledger says.
create or replace function ledger_grant(payee uuid, grant_kind text, business text, amount bigint, granted_by uuid, reason text) returns text
    language plpgsql security definer
    set search_path = public, pg_temp
    set enable_seqscan = off
as $$
declare
    txn bigint;
    lot bigint;
begin
    insert into ledger_accounts (owner_id, kind) values (payee, 'available'), (payee, 'held') on conflict do nothing;
    insert into credit_balances (owner_id) values (payee) on conflict do nothing;
    perform from credit_balances b where b.owner_id = payee for update;
    insert into ledger_txns (kind, business_id, owner_id, actor, source_ref)
        values (grant_kind, business, payee, granted_by, reason)
        on conflict on constraint ledger_business_done do nothing returning id into txn;
    if txn is null then
        perform from ledger_txns t join ledger_entries e on e.txn_id = t.id
          where t.business_id = business and t.owner_id = payee and t.source_ref = reason and e.amount_mc = amount;
        return case when found then 'known' else 'reused' end;
    end if;
    insert into credit_lots (owner_id, source, granted_mc, remaining_mc)
        values (payee, grant_kind, amount, amount) returning id into lot;
    insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
        select txn, 0, a.id, null, -amount from ledger_accounts a where a.owner_id is null and a.kind = 'issued_gift'
        union all
        select txn, 1, a.id, lot, amount from ledger_accounts a where a.owner_id = payee and a.kind = 'available';
    update credit_balances set available_mc = available_mc + amount where owner_id = payee;
    return 'granted';
end;
$$;

revoke create on schema public from flowai_auth;
revoke flowai_auth, flowai_ledger from current_user;

-- as in 0023, with when its wait began: of what is read in several statements, all wait by one clock. and what a job without attempts
-- has none of is not gathered and sorted for it: a new leader reads a million of them.
create or replace view leader_job with (security_invoker = true) as
select s.job_id, s.owner_id, a.tier, j.class,
       greatest(0, extract(epoch from now() - greatest(j.created_at, p.finished_at)) * 1000)::bigint as waited_ms,
       j.after_id, p.state as after_state, j.model_id, j.spec::text as spec, s.state, s.attempt, s.epoch, s.node_id, s.generation,
       coalesce(t.failures, 0) as failures, coalesce(t.failed_on, '{}') as failed_on, coalesce(t.died_on, '{}') as died_on,
       coalesce(t.preemptions, 0) as preemptions, s.node_deaths, s.cancel_requested_at is not null as cancel_requested,
       k.step as kept_step, k.device_class as kept_class, s.finished_at,
       -- the same, of the other table: whoever reads a range bounds both, or the planner reads one of them from its beginning.
       j.id as spec_of,
       greatest(j.created_at, p.finished_at) as ready_at
  from job_state s
  join job j on j.id = s.job_id
  join account a on a.id = s.owner_id
  left join job_state p on p.job_id = j.after_id
  left join checkpoint k on k.job_id = s.job_id
  left join lateral (
       select count(*) filter (where outcome in ('failed', 'lost')) as failures,
              array_agg(distinct node_id) filter (where outcome in ('failed', 'lost')) as failed_on,
              array_agg(distinct node_id) filter (where outcome = 'lost') as died_on,
              -- `MADE_ROOM` in store/src/journal.
              count(*) filter (where outcome = 'stopped' and starts_with(detail, 'made room for another job')) as preemptions
         from attempt
        where s.attempt > 0 and job_id = s.job_id and outcome in ('failed', 'lost', 'stopped')
        group by job_id) t on true;

-- nobody asks by it, and without it the end of a hold changes no index.
drop index credit_hold_open;

-- each row is written twice: once when the attempt begins, once when it ends.
alter table attempt set (fillfactor = 50);

-- unfinished jobs behind one and up to another, in the order of ids: a page of what a new leader reads. both tables are read side by side
-- by their keys. with the values at hand the planner takes a range of uuids for a single row, and reads one of them anew for each of the
-- other: it plans without them.
create function leader_page(behind uuid, upto uuid) returns table (
        job_id uuid, owner_id uuid, tier text, class text, ready_at timestamptz, after_id uuid, after_state text, model_id text, spec text,
        state text, attempt int, epoch int, node_id text, generation int, failures bigint, failed_on text[], died_on text[],
        node_deaths int, preemptions bigint, cancel_requested boolean, kept_step int, kept_class text)
    language plpgsql stable
    set search_path = public, pg_temp
    set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    select l.job_id, l.owner_id, l.tier, l.class, l.ready_at, l.after_id, l.after_state, l.model_id, l.spec,
           l.state, l.attempt, l.epoch, l.node_id, l.generation, l.failures, l.failed_on, l.died_on,
           l.node_deaths, l.preemptions, l.cancel_requested, l.kept_step, l.kept_class
      from leader_job l
     where l.finished_at is null and l.job_id > behind and l.spec_of > behind and l.job_id <= upto and l.spec_of <= upto
     order by l.job_id;
end;
$$;
revoke all on function leader_page(uuid, uuid) from public;
grant execute on function leader_page(uuid, uuid) to flowai_coordinator;
