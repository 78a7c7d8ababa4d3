-- what a wrong clock of one api could do, and what nobody ever took away.

grant flowai_events, flowai_auth, flowai_ledger to current_user;
grant create on schema public to flowai_auth, flowai_events;

-- events from before the weeks that are kept, for which no week is to be made: one of 1970 wanted three thousand of them, which no
-- statement has the time for, and so there was no new week for anybody. they go as their weeks would.
create function forget_events_before(kept int) returns void
    language sql security definer
    set search_path = event_weeks, pg_temp
    set timezone = 'UTC'
begin atomic
    delete from event_weeks.other where at < date_trunc('week', now() - kept * interval '7 days');
end;
alter function forget_events_before(int) owner to flowai_events;
revoke all on function forget_events_before(int) from public;
grant execute on function forget_events_before(int) to flowai_coordinator;

-- when something was asked for, as the asker's clock says, if that is near the truth: jobs age by it, and are served by their age.
create function near_now(clocks timestamptz[]) returns timestamptz[]
    language sql stable
    set search_path = public, pg_temp
begin atomic
    select array_agg(greatest(least(c.clock, now()), now() - interval '1 minute') order by c.place)
      from unnest(clocks) with ordinality as c (clock, place);
end;
revoke all on function near_now(timestamptz[]) from public;
grant execute on function near_now(timestamptz[]) to flowai_app;

-- the owner cancels what waits and asks for the end of what runs: nothing else of the row was ever the owner's to write.
revoke update on job_state from flowai_app;
grant update (state, finished_at, cancel_requested_at, seq) on job_state to flowai_app;

-- a node that is forgotten takes its row, and with it its offers.
grant delete on node to flowai_coordinator;

-- sign-ins that ended long ago: nothing refers to them, and no token of theirs says anything any more.
create index sign_in_by_end on sign_in (expires_at);
grant delete on sign_in to flowai_auth;
create function auth_forget_sign_ins(most int) returns bigint
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    with gone as (
        delete from sign_in where id in (
            select id from sign_in where expires_at < now() - interval '30 days' order by expires_at limit most)
        returning 1)
    select count(*) from gone;
end;
alter function auth_forget_sign_ins(int) owner to flowai_auth;
revoke all on function auth_forget_sign_ins(int) from public;
grant execute on function auth_forget_sign_ins(int) to flowai_coordinator;

-- as in 0010, and whoever is suspended gives nothing.
grant select (suspended_at) on account to flowai_ledger;
create or replace function ledger_grant_as_admin(wanted_email text, amount bigint, reason text, request_key text)
    returns table (verdict text, payee uuid)
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    if not exists (select from account a where a.id = app_user() and a.role = 'admin' and a.suspended_at is null) then
        return query select 'not_admin', null::uuid;
        return;
    end if;
    select a.id into payee from account a where a.email = wanted_email;
    if payee is null then
        return query select 'not_found', null::uuid;
        return;
    end if;
    return query select ledger_grant(payee, 'admin', 'admin:' || app_user() || ':' || request_key, amount, app_user(), reason), payee;
end;
$$;

revoke create on schema public from flowai_auth, flowai_events;
revoke flowai_events, flowai_auth, flowai_ledger from current_user;
