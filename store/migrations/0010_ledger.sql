-- credits: what a render costs is held when it is submitted, captured when its clip is delivered and released when it ends
-- without one, each in the transaction of the job's own change. double entry, append only, in milli-credits: a balance can
-- always be counted again from the entries, and the views at the end say where it cannot.
-- nobody who connects may write here: the functions below do, each of which looks at the rows of the jobs itself.

do $$
begin
    if not exists (select from pg_roles where rolname = 'flowai_ledger') then
        create role flowai_ledger nologin nosuperuser nocreatedb nocreaterole nobypassrls;
    end if;
end
$$;
grant usage on schema public to flowai_ledger;
grant execute on function app_user() to flowai_ledger;

-- two of each user, which hold what they own, and those of the house, from which credits come and where they go.
create table ledger_accounts (
    id        bigint generated always as identity primary key,
    owner_id  uuid references account,
    kind      text        not null check (kind in ('available', 'held', 'issued_gift', 'revenue')),
    opened_at timestamptz not null default now(),
    unique nulls not distinct (owner_id, kind),
    check ((owner_id is null) = (kind in ('issued_gift', 'revenue')))
);

create table ledger_txns (
    id          bigint generated always as identity primary key,
    kind        text        not null check (kind in ('gift', 'admin', 'hold', 'capture', 'release')),
    -- what happened, by a name that it has once: a repeat finds the row.
    business_id text        not null constraint ledger_business_done unique check (length(business_id) between 1 and 400),
    owner_id    uuid        not null,
    -- of a hold and its end. the job itself may be purged later.
    job_id      uuid,
    attempt     int,
    epoch       int,
    -- of a grant: who gave it, and why.
    actor       uuid,
    source_ref  text check (length(source_ref) <= 500),
    created_at  timestamptz not null default now(),
    check ((job_id is not null) = (kind in ('hold', 'capture', 'release')))
);
create unique index ledger_txn_once_a_job on ledger_txns (job_id, kind) where job_id is not null;
create index ledger_txn_of_owner on ledger_txns (owner_id, id);

-- credits that came together. spent in the order in which they came.
create table credit_lots (
    id           bigint generated always as identity primary key,
    owner_id     uuid        not null references account,
    source       text        not null check (source in ('gift', 'admin')),
    granted_mc   bigint      not null check (granted_mc > 0),
    remaining_mc bigint      not null check (remaining_mc between 0 and granted_mc),
    -- of its own, so that the index below is not written each time that something is spent.
    is_spent     boolean generated always as (remaining_mc = 0) stored,
    created_at   timestamptz not null default now()
) with (fillfactor = 60);
create index credit_lot_unspent on credit_lots (owner_id, id) where not is_spent;

create table ledger_entries (
    txn_id     bigint   not null references ledger_txns,
    place      smallint not null,
    account_id bigint   not null references ledger_accounts,
    -- of an entry on `available`: from or to which lot.
    lot_id     bigint references credit_lots,
    amount_mc  bigint   not null check (amount_mc <> 0),
    primary key (txn_id, place)
);

create table credit_holds (
    job_id      uuid primary key,
    owner_id    uuid        not null references account,
    amount_mc   bigint      not null check (amount_mc > 0),
    -- the version of the prices by which the amount was reckoned: actors/src/credits/price.rs.
    price_book  int         not null check (price_book > 0),
    state       text        not null default 'held' check (state in ('held', 'captured', 'released')),
    captured_mc bigint      not null default 0 check (captured_mc between 0 and amount_mc),
    -- what was taken from which lot, in this order.
    lot_ids     bigint[]    not null,
    lot_mcs     bigint[]    not null,
    held_at     timestamptz not null default now(),
    ended_at    timestamptz,
    check ((state = 'held') = (ended_at is null)),
    check ((state = 'captured') = (captured_mc > 0)),
    check (cardinality(lot_ids) = cardinality(lot_mcs) and cardinality(lot_ids) > 0)
) with (fillfactor = 60);
-- the sweep looks at what is still held.
create index credit_hold_open on credit_holds (job_id) where ended_at is null;

-- the sums of a user's entries. changed in the transaction of the entries, and locked before them: two submissions cannot both
-- spend the last credit. the house has no such row, on which every render would queue.
create table credit_balances (
    owner_id     uuid primary key references account,
    available_mc bigint not null default 0 check (available_mc >= 0),
    held_mc      bigint not null default 0 check (held_mc >= 0)
) with (fillfactor = 60);

do $$
declare
    name text;
begin
    foreach name in array array['ledger_accounts', 'ledger_txns', 'ledger_entries', 'credit_lots', 'credit_holds', 'credit_balances'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format('grant select, insert on %I to flowai_ledger', name);
        execute format('grant select on %I to flowai_coordinator', name);
        execute format('create policy ledger on %I to flowai_ledger using (true) with check (true)', name);
        execute format('create policy read_all on %I for select to flowai_coordinator using (true)', name);
    end loop;
end
$$;
grant update on credit_lots, credit_holds, credit_balances to flowai_ledger;
grant select on ledger_accounts, ledger_entries, credit_lots, credit_holds, credit_balances to flowai_app;
-- not who gave something.
grant select (id, kind, business_id, owner_id, job_id, source_ref, created_at) on ledger_txns to flowai_app;
create policy own on ledger_accounts for select to flowai_app using (owner_id = (select app_user()));
create policy own on ledger_txns for select to flowai_app using (owner_id = (select app_user()));
create policy own on ledger_entries for select to flowai_app
    using (account_id in (select a.id from ledger_accounts a where a.owner_id = (select app_user())));
create policy own on credit_lots for select to flowai_app using (owner_id = (select app_user()));
create policy own on credit_holds for select to flowai_app using (owner_id = (select app_user()));
create policy own on credit_balances for select to flowai_app using (owner_id = (select app_user()));

-- what the functions look at.
grant select on job, job_state to flowai_ledger;
grant select (id, email, role) on account to flowai_ledger;
create policy ledger on job for select to flowai_ledger using (true);
create policy ledger on job_state for select to flowai_ledger using (true);
create policy ledger on account for select to flowai_ledger using (true);

-- the owner of the tables is bound by the policies as well.
create policy first_rows on ledger_accounts for insert to current_user with check (true);
insert into ledger_accounts (kind) values ('issued_gift'), ('revenue');
drop policy first_rows on ledger_accounts;

-- append only, also for whoever owns the tables. a correction is a new transaction.
create function ledger_refuse_change() returns trigger
    language plpgsql
    set search_path = public, pg_temp
as $$
begin
    raise insufficient_privilege using message = format('%s is append only', tg_table_name);
end;
$$;
create trigger append_only before update or delete or truncate on ledger_accounts
    for each statement execute function ledger_refuse_change();
create trigger append_only before update or delete or truncate on ledger_txns
    for each statement execute function ledger_refuse_change();
create trigger append_only before update or delete or truncate on ledger_entries
    for each statement execute function ledger_refuse_change();

-- no statement adds entries that do not balance, whenever it comes. once a statement and not once a row: a batch of the
-- leader's adds a thousand of them.
create function ledger_demand_balance() returns trigger
    language plpgsql
    set search_path = public, pg_temp
as $$
begin
    if exists (select from added group by txn_id having sum(amount_mc) <> 0) then
        raise integrity_constraint_violation
            using constraint = 'ledger_unbalanced', message = 'the entries of a transaction must sum to zero';
    end if;
    return null;
end;
$$;
create trigger balanced after insert on ledger_entries referencing new table as added
    for each statement execute function ledger_demand_balance();

-- and no transaction stays without entries. it looks when the database's own transaction ends, by then as whoever connected,
-- who does not see the accounts of the house.
create function ledger_demand_entries() returns trigger
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    if (select count(*) < 2 or sum(e.amount_mc) <> 0 from ledger_entries e where e.txn_id = new.id) then
        raise integrity_constraint_violation
            using constraint = 'ledger_unbalanced', message = 'a transaction has two entries or more, which sum to zero';
    end if;
    return null;
end;
$$;
create constraint trigger has_entries after insert on ledger_txns
    deferrable initially deferred for each row execute function ledger_demand_entries();

-- gives credits. `granted`, or `known` when this business was done before, or `reused` when it was done for another user or
-- another amount: then nothing moves.
create function ledger_grant(payee uuid, grant_kind text, business text, amount bigint, granted_by uuid, reason text) returns text
    language plpgsql security definer
    set search_path = public, pg_temp
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
          where t.business_id = business and t.owner_id = payee and e.amount_mc = amount;
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

-- an administrator, on whose behalf the transaction acts, gives credits to whoever has this email. as above, or `not_found`;
-- `not_admin` when it is none.
create function ledger_grant_as_admin(wanted_email text, amount bigint, reason text, request_key text)
    returns table (verdict text, payee uuid)
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    if not exists (select from account a where a.id = app_user() and a.role = 'admin') then
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

-- takes the price of a job of the user on whose behalf the transaction acts. an error that names `credits_insufficient`, and as
-- its detail what is available, when that is less.
create function ledger_hold(video uuid, price_mc bigint, book int) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
declare
    payer uuid := app_user();
    available bigint;
    txn bigint;
begin
    if not exists (select from job j where j.id = video and j.owner_id = payer) then
        raise insufficient_privilege using message = 'only an own job is paid for';
    end if;
    select b.available_mc into available from credit_balances b where b.owner_id = payer for update;
    if available is null or available < price_mc then
        raise check_violation using constraint = 'credits_insufficient', message = 'not enough credits are available',
                                    detail = coalesce(available, 0)::text;
    end if;
    insert into ledger_txns (kind, business_id, owner_id, job_id)
        values ('hold', 'hold:' || video, payer, video) returning id into txn;
    with lot as (
        select l.id, l.remaining_mc, (sum(l.remaining_mc) over (order by l.id) - l.remaining_mc)::bigint as before
          from credit_lots l where l.owner_id = payer and not l.is_spent
    ), wanted as (
        select lot.id, least(lot.remaining_mc, price_mc - lot.before) as mc from lot where lot.before < price_mc
    ), taken as (
        update credit_lots l set remaining_mc = l.remaining_mc - w.mc from wanted w where l.id = w.id returning l.id, w.mc
    ), hold as (
        insert into credit_holds (job_id, owner_id, amount_mc, price_book, lot_ids, lot_mcs)
        select video, payer, price_mc, book, array_agg(t.id order by t.id), array_agg(t.mc order by t.id) from taken t
    ), balance as (
        update credit_balances b set available_mc = b.available_mc - price_mc, held_mc = b.held_mc + price_mc
         where b.owner_id = payer
    ), side as (
        select 'held' as kind, 0 as place, null::bigint as lot_id, price_mc as mc
        union all
        select 'available', row_number() over (order by t.id), t.id, -t.mc from taken t
    )
    insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
    select txn, s.place, a.id, s.lot_id, s.mc
      from side s join ledger_accounts a on a.owner_id = payer and a.kind = s.kind;
end;
$$;

-- ends the holds of jobs that have ended in this transaction, by how their rows say they ended: delivered, all of it is captured;
-- cancelled, the share of the steps that were done (rounded down, and none where they are not known); else all of it goes back to
-- where it came from. a hold that has ended already stays as it is, and so does that of a job that has not.
create function ledger_end_holds(videos uuid[], steps_done int[], steps_total int[]) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    -- after the rows of the jobs and of the users' streams; the lots are safe behind these.
    perform from credit_balances b
      where b.owner_id in (select h.owner_id from credit_holds h where h.job_id = any (videos) and h.state = 'held')
      order by b.owner_id for update;
    with wanted as (
        select w.job_id, s.state, s.attempt, s.epoch, h.owner_id,
               case when s.state = 'done' then h.amount_mc
                    when s.state = 'cancelled' and w.total > 0
                    then div(h.amount_mc::numeric * greatest(0, least(w.done, w.total)), w.total)::bigint
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
    ), back as (
        -- the lots that were taken first are captured first.
        select e.job_id, e.owner_id, l.lot_id, l.place,
               l.mc - greatest(0, least(l.mc, e.captured_mc - (sum(l.mc) over (partition by e.job_id order by l.place) - l.mc)))::bigint as mc
          from ended e, unnest(e.lot_ids, e.lot_mcs) with ordinality as l (lot_id, mc, place)
         where e.captured_mc < e.amount_mc
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
    ), part as (
        select e.job_id, e.owner_id, e.attempt, e.epoch, p.kind, p.mc
          from ended e, lateral (values ('capture', e.captured_mc), ('release', e.amount_mc - e.captured_mc)) as p (kind, mc)
         where p.mc > 0
    ), txn as (
        insert into ledger_txns (kind, business_id, owner_id, job_id, attempt, epoch)
        select p.kind, p.kind || ':' || p.job_id, p.owner_id, p.job_id, p.attempt, p.epoch from part p
        returning id, kind, job_id, owner_id
    ), side as (
        select t.id as txn_id, 0 as place, t.owner_id, 'held' as kind, null::bigint as lot_id, -p.mc as mc
          from txn t join part p on p.job_id = t.job_id and p.kind = t.kind
        union all
        select t.id, 1, null, 'revenue', null, p.mc
          from txn t join part p on p.job_id = t.job_id and p.kind = t.kind where t.kind = 'capture'
        union all
        select t.id, b.place, t.owner_id, 'available', b.lot_id, b.mc
          from txn t join back b on b.job_id = t.job_id where t.kind = 'release' and b.mc > 0
    )
    insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
    select s.txn_id, s.place, a.id, s.lot_id, s.mc
      from side s join ledger_accounts a on a.owner_id is not distinct from s.owner_id and a.kind = s.kind;
end;
$$;

-- the same for one job of the user on whose behalf the transaction acts, who has cancelled it while it waited.
create function ledger_end_own_hold(video uuid) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    if exists (select from credit_holds h where h.job_id = video and h.owner_id = app_user()) then
        perform ledger_end_holds(array[video], array[null::int], array[null::int]);
    end if;
end;
$$;

-- a function of a role is made the role's own by somebody who may act as it and while it may create in the schema.
grant create on schema public to flowai_ledger;
grant flowai_ledger to current_user;
alter function ledger_demand_entries() owner to flowai_ledger;
alter function ledger_grant(uuid, text, text, bigint, uuid, text) owner to flowai_ledger;
alter function ledger_grant_as_admin(text, bigint, text, text) owner to flowai_ledger;
alter function ledger_hold(uuid, bigint, int) owner to flowai_ledger;
alter function ledger_end_holds(uuid[], int[], int[]) owner to flowai_ledger;
alter function ledger_end_own_hold(uuid) owner to flowai_ledger;
revoke all on function
    ledger_refuse_change(), ledger_demand_balance(), ledger_demand_entries(), ledger_grant(uuid, text, text, bigint, uuid, text),
    ledger_grant_as_admin(text, bigint, text, text), ledger_hold(uuid, bigint, int), ledger_end_holds(uuid[], int[], int[]),
    ledger_end_own_hold(uuid) from public;
-- for whoever owns the database, not for a program.
grant execute on function ledger_grant(uuid, text, text, bigint, uuid, text) to current_user;
grant execute on function ledger_grant(uuid, text, text, bigint, uuid, text) to flowai_auth;
grant execute on function ledger_grant_as_admin(text, bigint, text, text), ledger_hold(uuid, bigint, int), ledger_end_own_hold(uuid)
    to flowai_app;
grant execute on function ledger_end_holds(uuid[], int[], int[]) to flowai_coordinator;
revoke flowai_ledger from current_user;
revoke create on schema public from flowai_ledger;

-- whoever was here before gets what a new account gets where nobody said otherwise.
create policy gifts on account for select to current_user using (true);
select ledger_grant(id, 'gift', 'gift:' || id || ':signup', 1000000, null, 'signup') from account;
drop policy gifts on account;

-- as before, and a new account gets credits, of which it has none otherwise.
drop function auth_sign_up(uuid, text, text);
create function auth_sign_up(new_id uuid, new_email text, new_password_hash text, gift_mc bigint) returns void
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    insert into account (id, email) values (new_id, new_email);
    insert into credential (user_id, password_hash) values (new_id, new_password_hash);
    select ledger_grant(new_id, 'gift', 'gift:' || new_id || ':signup', gift_mc, null, 'signup') where gift_mc > 0;
end;
grant create on schema public to flowai_auth;
grant flowai_auth to current_user;
alter function auth_sign_up(uuid, text, text, bigint) owner to flowai_auth;
revoke all on function auth_sign_up(uuid, text, text, bigint) from public;
grant execute on function auth_sign_up(uuid, text, text, bigint) to flowai_app;
revoke flowai_auth from current_user;
revoke create on schema public from flowai_auth;

-- as before, and the price is held with the job.
drop function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, bigint, text, bytea, int, jsonb);

-- queues a video on behalf of `owner`, holds its price and keeps the answer under the request's own key, if it has one.
-- `queued`: it is durable when this returns. `replayed`: the same request got this answer before. `reused`: another request
-- had the key. `in_progress`: a request with this key is at work at this moment. nothing was written but for `queued`.
-- too few credits, too many waiting jobs, a picture, an adapter or a parent that is not the owner's are errors that name their
-- constraint.
create function submit_video(
    owner uuid, video uuid, queued_at timestamptz, video_spec jsonb, full_spec jsonb, model text, image uuid,
    keyframe_model text, adapters uuid[], wish text, remix_of uuid, start_class text, start_after uuid, queued_max bigint,
    price_mc bigint, price_book int, request_key text, hash bytea, answer_status int, answer jsonb)
    returns table (verdict text, known_status int, known_answer jsonb)
    language plpgsql
    set search_path = public, pg_temp
as $$
declare
    known record;
    next_seq bigint;
begin
    -- the policies below know the owner, until the end of the transaction.
    perform set_config('app.user_id', owner::text, true);
    if request_key is not null then
        if not pg_try_advisory_xact_lock(hashtextextended('idempotency' || owner::text || request_key, 0)) then
            return query select 'in_progress', null::int, null::jsonb;
            return;
        end if;
        select i.request_hash, i.status, i.body into known from idempotency i
         where i.owner_id = owner and i.key = request_key and i.created_at >= now() - interval '24 hours';
        if found then
            if known.request_hash = hash then
                return query select 'replayed', known.status, known.body;
            else
                return query select 'reused', null::int, null::jsonb;
            end if;
            return;
        end if;
    end if;
    -- first, because it also makes two submissions of one user count each other.
    insert into user_stream (user_id, seq) values (owner, 1)
        on conflict (user_id) do update set seq = user_stream.seq + 1 returning seq into next_seq;
    if (select count(*) from job_state s where s.owner_id = owner and s.finished_at is null and s.state = 'queued') >= queued_max then
        raise check_violation using constraint = 'job_too_many_queued', message = 'too many jobs of the owner wait';
    end if;
    -- the policies show only the owner's own.
    if start_after is not null and not exists (select from job j where j.id = start_after) then
        raise foreign_key_violation using constraint = 'job_after_not_found', message = 'the job to start after is not there';
    end if;
    insert into job (id, owner_id, spec, final_spec, model_id, image_id, keyframe_model_id, prompt, parent_id, class, after_id,
                     created_at)
        values (video, owner, video_spec, full_spec, model, image, keyframe_model, wish, remix_of, start_class, start_after,
                queued_at);
    if cardinality(adapters) > 0 then
        insert into job_adapter (job_id, owner_id, adapter_id) select video, owner, unnest(adapters);
    end if;
    insert into job_state (job_id, owner_id) values (video, owner);
    insert into job_event (owner_id, user_seq, job_id, seq, kind, at) values (owner, next_seq, video, 1, 'queued', queued_at);
    perform ledger_hold(video, price_mc, price_book);
    if request_key is not null then
        insert into idempotency (owner_id, key, request_hash, status, body)
            values (owner, request_key, hash, answer_status, answer)
            on conflict on constraint idempotency_key_used do update
            set request_hash = excluded.request_hash, status = excluded.status, body = excluded.body, created_at = now();
    end if;
    return query select 'queued', null::int, null::jsonb;
end;
$$;
revoke all on function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, text, uuid, bigint, bigint, int, text, bytea, int,
    jsonb)
    from public;
grant execute on function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, text, uuid, bigint, bigint, int, text, bytea, int,
    jsonb)
    to flowai_app;

-- the invariants, one view each: what a row is in is wrong. they read as whoever asks, so that a user's own are theirs.

-- (a) each transaction sums to zero, over two entries or more.
create view ledger_broken_txns with (security_invoker = true) as
select t.id::text as subject, format('%s entries sum to %s', count(e.txn_id), coalesce(sum(e.amount_mc), 0)) as finding
  from ledger_txns t left join ledger_entries e on e.txn_id = t.id
 group by t.id having count(e.txn_id) < 2 or sum(e.amount_mc) <> 0;

-- (b) a balance is the sum of its user's entries.
create view ledger_broken_balances with (security_invoker = true) as
select owner_id::text as subject,
       format('balance %s + %s held, entries %s + %s', b.available_mc, b.held_mc, e.available_mc, e.held_mc) as finding
  from (select a.owner_id, coalesce(sum(e.amount_mc) filter (where a.kind = 'available'), 0) as available_mc,
               coalesce(sum(e.amount_mc) filter (where a.kind = 'held'), 0) as held_mc
          from ledger_accounts a left join ledger_entries e on e.account_id = a.id
         where a.owner_id is not null group by a.owner_id) e
  full join credit_balances b using (owner_id)
 where (b.available_mc, b.held_mc) is distinct from (e.available_mc, e.held_mc);

-- (c) what a lot has left is the sum of its entries, and every entry on `available` is of a lot of its user.
create view ledger_broken_lots with (security_invoker = true) as
select l.id::text as subject, format('%s left, entries %s', l.remaining_mc, coalesce(e.mc, 0)) as finding
  from credit_lots l
  left join (select lot_id, sum(amount_mc) as mc from ledger_entries where lot_id is not null group by lot_id) e on e.lot_id = l.id
 where l.remaining_mc <> coalesce(e.mc, 0)
union all
select format('%s/%s', e.txn_id, e.place), 'an entry on available is not of a lot of its user'
  from ledger_entries e join ledger_accounts a on a.id = e.account_id left join credit_lots l on l.id = e.lot_id
 where (a.kind = 'available' or e.lot_id is not null) and (a.kind <> 'available' or l.owner_id is distinct from a.owner_id);

-- (d) a hold is open while its job is, and ends whole. every job since the ledger began has one.
create view ledger_broken_holds with (security_invoker = true) as
select h.job_id::text as subject, format('hold is %s, job is %s', h.state, coalesce(s.state, 'gone')) as finding
  from credit_holds h left join job_state s on s.job_id = h.job_id
 where (h.ended_at is null) <> (s.job_id is not null and s.finished_at is null)
union all
select h.job_id::text, format('%s of %s held, %s of %s captured, %s of %s released', coalesce(t.hold, 0), h.amount_mc,
                              coalesce(t.capture, 0), h.captured_mc, coalesce(t.release, 0), h.amount_mc - h.captured_mc)
  from credit_holds h
  left join (select t.job_id,
                    sum(abs(e.amount_mc)) filter (where t.kind = 'hold') as hold,
                    sum(abs(e.amount_mc)) filter (where t.kind = 'capture') as capture,
                    sum(abs(e.amount_mc)) filter (where t.kind = 'release') as release
               from ledger_txns t join ledger_entries e on e.txn_id = t.id
               join ledger_accounts a on a.id = e.account_id and a.kind = 'held'
              group by t.job_id) t on t.job_id = h.job_id
 where coalesce(t.hold, 0) <> h.amount_mc
    or (h.ended_at is not null and (coalesce(t.capture, 0), coalesce(t.release, 0)) <> (h.captured_mc, h.amount_mc - h.captured_mc))
    or (h.ended_at is null and (t.capture is not null or t.release is not null))
union all
select j.id::text, 'a job without a hold'
  from job j
 where j.created_at > (select min(opened_at) from ledger_accounts)
   and not exists (select from credit_holds h where h.job_id = j.id);

-- (e) all is captured exactly where a clip was delivered, and a part of it only where the owner cancelled what ran.
create view ledger_broken_captures with (security_invoker = true) as
select h.job_id::text as subject,
       format('%s of %s captured, job is %s after %s attempts', h.captured_mc, h.amount_mc, s.state, s.attempt) as finding
  from credit_holds h join job_state s on s.job_id = h.job_id left join artefact a on a.job_id = h.job_id
 where (s.state = 'done') <> (a.job_id is not null)
    or (s.state = 'done' and h.captured_mc <> h.amount_mc)
    or (s.state <> 'done' and h.captured_mc > 0 and not (s.state = 'cancelled' and s.attempt > 0));

-- (f) what failed, was quarantined, or was cancelled before its start costs nothing.
create view ledger_broken_releases with (security_invoker = true) as
select h.job_id::text as subject, format('%s charged, job is %s', h.captured_mc, s.state) as finding
  from credit_holds h join job_state s on s.job_id = h.job_id
 where h.captured_mc > 0
   and (s.state in ('failed', 'quarantined') or (s.state = 'cancelled' and s.started_at is null));

-- (g) a gift is somebody's once, and what an administrator gave names them and why.
create view ledger_broken_grants with (security_invoker = true) as
select t.id::text as subject, format('%s %s without its source', t.kind, t.business_id) as finding
  from ledger_txns t
 where (t.kind = 'gift' and t.business_id not like 'gift:' || t.owner_id || ':%')
    or (t.kind = 'admin' and (t.actor is null or t.source_ref is null or t.business_id not like 'admin:' || t.actor || ':%'));

create view ledger_imbalances with (security_invoker = true) as
select 'a' as invariant, subject, finding from ledger_broken_txns
union all select 'b', subject, finding from ledger_broken_balances
union all select 'c', subject, finding from ledger_broken_lots
union all select 'd', subject, finding from ledger_broken_holds
union all select 'e', subject, finding from ledger_broken_captures
union all select 'f', subject, finding from ledger_broken_releases
union all select 'g', subject, finding from ledger_broken_grants;

grant select on ledger_broken_txns, ledger_broken_balances, ledger_broken_lots, ledger_broken_holds, ledger_broken_captures,
                ledger_broken_releases, ledger_broken_grants, ledger_imbalances to flowai_coordinator;
