-- what may wait for what, and who may write what.

grant flowai_events, flowai_auth, flowai_intake to current_user;
grant create on schema public to flowai_events, flowai_auth;

-- to lock it: no policy shows them a row.
grant delete on job to flowai_events;

-- as in 0017. a week cannot be made while its events come: what was not in it when its rows were looked for is in its way. and the
-- locks are taken as by whoever submits or removes jobs, theirs before those of events: neither waits for the other with what that needs.
create or replace function keep_event_weeks(ahead int, kept int) returns void
    language plpgsql security definer
    set search_path = event_weeks, pg_temp
    set timezone = 'UTC'
    set lock_timeout = '1s'
as $$
declare
    week timestamptz;
    part text;
begin
    perform pg_advisory_xact_lock(hashtext('event_weeks'));
    for week in
        select generate_series(date_trunc('week', least(now(), (select min(at) from other))),
                               now() + ahead * interval '7 days', interval '7 days')
    loop
        part := to_char(week, '"from_"YYYY_MM_DD');
        continue when to_regclass(part) is not null;
        lock table public.job in share row exclusive mode;
        lock table only public.job_event in share row exclusive mode;
        execute format('create table %I (like public.job_event including defaults including constraints)', part);
        execute format('with sorted as (delete from other where at >= %L and at < %L returning *)
                        insert into %I select * from sorted', week, week + interval '7 days', part);
        execute format('alter table %I enable row level security', part);
        execute format('alter table %I force row level security', part);
        execute format('alter table public.job_event attach partition %I for values from (%L) to (%L)',
                       part, week, week + interval '7 days');
    end loop;
    for part in
        select c.relname from pg_class c
         where c.relnamespace = 'event_weeks'::regnamespace and c.relkind = 'r' and c.relname like 'from\_%'
           and to_date(c.relname, '"from_"YYYY_MM_DD') + 7 * (kept + 1) <= current_date
    loop
        execute format('drop table %I', part);
    end loop;
end
$$;

-- as in 0006. when a key was used last waits for nobody: whoever changes one keeps no other from being looked up.
create or replace function auth_by_api_key(wanted_hash bytea)
    returns table (key_id uuid, user_id uuid, scopes text[], suspended boolean)
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    update api_key k set last_used_at = now()
     where k.id in (select o.id from api_key o
                     where o.key_hash = wanted_hash and (o.last_used_at is null or o.last_used_at < now() - interval '1 minute')
                       for no key update skip locked);
    select k.id, k.owner_id, k.scopes, a.suspended_at is not null
      from api_key k join account a on a.id = k.owner_id
     where k.key_hash = wanted_hash and k.revoked_at is null and (k.expires_at is null or k.expires_at > now());
end;

-- whatever an api says, a job has waited for a moment at most (`near_now`).
alter policy intake on job with check (created_at between now() - interval '2 minutes' and now());

-- it names who gave something.
revoke select (business_id) on ledger_txns from flowai_app;

-- what nobody does any more since submissions gather (0022), and of events an owner's own cancels.
revoke insert, update on idempotency from flowai_app;
revoke delete on artefact, job_adapter from flowai_app;
revoke insert on job_state from flowai_coordinator;
alter policy own on job_event with check (owner_id = (select app_user()) and kind in ('cancelling', 'cancelled'));

revoke create on schema public from flowai_events, flowai_auth;
revoke flowai_events, flowai_auth, flowai_intake from current_user;
