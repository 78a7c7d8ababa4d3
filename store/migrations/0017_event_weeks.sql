-- events by week. they are the table that grows fastest and that nobody looks back into for long: a week that is over is dropped
-- whole, which leaves no dead rows behind and costs the same however many there were. weeks and not days, because a look at one
-- user's events looks into the index of each part.
--
-- the leader makes and drops weeks by a function, whose owner has nothing but events: it cannot log in, and may not be given more.

do $$
begin
    if not exists (select from pg_roles where rolname = 'flowai_events') then
        create role flowai_events nologin nosuperuser nocreatedb nocreaterole nobypassrls;
    end if;
end
$$;
grant usage on schema public to flowai_events;
grant execute on function app_user() to flowai_events;
grant references on account, job to flowai_events;

-- an owner who is no superuser would be shown nothing.
alter table job_event no force row level security;
create temporary table event_before on commit drop as table job_event;
drop table job_event;

create table job_event (
    owner_id uuid        not null references account on delete cascade,
    -- counts the user's events, so that one stream carries all jobs.
    user_seq bigint      not null,
    job_id   uuid        not null,
    -- counts the job's events.
    seq      bigint      not null,
    kind     text        not null check (kind in ('queued', 'assigned', 'cancelling', 'retrying',
                                                  'done', 'failed', 'cancelled', 'quarantined')),
    data     jsonb       not null default '{}',
    at       timestamptz not null default now(),
    -- a key of a table in parts holds what parts it. that no number is given twice is kept by the rows that count them: whoever
    -- takes a number holds its row in `user_stream` or `job_state` until the event is written.
    primary key (owner_id, user_seq, at),
    unique (job_id, seq, at),
    foreign key (owner_id, job_id) references job (owner_id, id) on delete cascade
) partition by range (at);
grant select, insert on job_event to flowai_app, flowai_coordinator;
create policy own on job_event to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy all_rows on job_event to flowai_coordinator using (true) with check (true);

grant flowai_events to current_user;
-- of the parts. nobody else may look into it.
create schema event_weeks authorization flowai_events;
-- what no week was made for, so that no event is ever refused. its rows go into their week when that is made.
create table event_weeks.other partition of job_event default;
insert into job_event select * from event_before;
alter table job_event enable row level security;
alter table job_event force row level security;
alter table event_weeks.other enable row level security;
alter table event_weeks.other force row level security;
create policy sorted on event_weeks.other to flowai_events using (true) with check (true);

-- makes the weeks that are missing, until so many from now, and drops those that ended more than `kept` weeks ago. its locks wait
-- for whoever uses the tables, and all others wait behind it: it gives up after a second, and is to be called again.
create function keep_event_weeks(ahead int, kept int) returns void
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
        -- made apart and then attached: this locks the other parts for a moment only.
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
revoke all on function keep_event_weeks(int, int) from public;
grant execute on function keep_event_weeks(int, int) to flowai_coordinator;

grant create on schema public to flowai_events;
alter table job_event owner to flowai_events;
alter table event_weeks.other owner to flowai_events;
alter function keep_event_weeks(int, int) owner to flowai_events;
select keep_event_weeks(4, 5000);
revoke create on schema public from flowai_events;
revoke flowai_events from current_user;
