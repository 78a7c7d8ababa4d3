-- submissions of many users in one statement. most of what a submission costs the server is the set-up of its two dozen statements,
-- and that is shared by all that come while the one before is under way. none of them may fail for another: what a user can run into is
-- a verdict and no error, and an error is of all, so that the caller tries each again by itself.
--
-- the function acts for many users at once, which the policies of the api's role do not allow: its owner cannot log in, and may do
-- nothing but this. references to something owned stay composite keys, which bind it as they bind everybody.

do $$
begin
    if not exists (select from pg_roles where rolname = 'flowai_intake') then
        create role flowai_intake nologin nosuperuser nocreatedb nocreaterole nobypassrls;
    end if;
end
$$;
grant usage on schema public to flowai_intake;
grant flowai_intake, flowai_ledger, flowai_events to current_user;
grant create on schema public to flowai_intake, flowai_ledger;

grant select (id, tier) on account to flowai_intake;
create policy intake on account for select to flowai_intake using (true);
grant select (id, owner_id), insert on job to flowai_intake;
create policy intake on job to flowai_intake using (true) with check (true);
grant select (id, owner_id) on upload, adapter to flowai_intake;
create policy intake on upload for select to flowai_intake using (true);
create policy intake on adapter for select to flowai_intake using (true);
grant insert on job_adapter to flowai_intake;
create policy intake on job_adapter for insert to flowai_intake with check (true);
grant select (owner_id, state, finished_at), insert on job_state to flowai_intake;
create policy intake on job_state to flowai_intake using (true) with check (state = 'queued' and attempt = 0 and epoch = 0);
grant insert on job_event to flowai_intake;
create policy intake on job_event for insert to flowai_intake with check (kind = 'queued');
-- no balance is changed by it: whoever takes a price must lock the row first, and that is a right of whoever may update it.
grant select (owner_id, available_mc), update (owner_id) on credit_balances to flowai_intake;
create policy intake on credit_balances to flowai_intake using (true) with check (false);
grant select, insert, update on user_stream, idempotency to flowai_intake;
create policy intake on user_stream to flowai_intake using (true) with check (true);
create policy intake on idempotency to flowai_intake using (true) with check (true);

-- takes the prices of jobs from the credits of their owners, of each from those that came first. one lot nearly always covers all of a
-- user's, and then no other is looked at. whoever calls has seen that they are enough and locked their rows: only `submit` may.
create function ledger_hold_each(videos uuid[], payers uuid[], prices_mc bigint[], books int[]) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
declare
    covered uuid[];
    rest record;
begin
    with due as (
        select d.payer, d.mc,
               (select f.id from credit_lots f where f.owner_id = d.payer and not f.is_spent order by f.id limit 1) as lot_id
          from (select v.payer, sum(v.mc)::bigint as mc from unnest(payers, prices_mc) as v (payer, mc) group by v.payer) d
    ), taken as (
        update credit_lots l set remaining_mc = l.remaining_mc - d.mc
          from due d
         where l.id = d.lot_id and l.remaining_mc >= d.mc and l.id = any (array(select d.lot_id from due d))
        returning d.payer, l.id as lot_id, d.mc
    ), balance as (
        update credit_balances b set available_mc = b.available_mc - t.mc, held_mc = b.held_mc + t.mc
          from taken t where b.owner_id = t.payer and b.owner_id = any (payers)
    ), part as materialized (
        select nextval('ledger_txns_id_seq') as txn_id, v.id as job_id, v.payer, v.mc, v.book, t.lot_id
          from unnest(videos, payers, prices_mc, books) as v (id, payer, mc, book) join taken t on t.payer = v.payer
    ), hold as (
        insert into credit_holds (job_id, owner_id, amount_mc, price_book, lot_ids, lot_mcs)
        select p.job_id, p.payer, p.mc, p.book, array[p.lot_id], array[p.mc] from part p
    ), txn as (
        insert into ledger_txns (id, kind, business_id, owner_id, job_id) overriding system value
        select p.txn_id, 'hold', 'hold:' || p.job_id, p.payer, p.job_id from part p
    ), entry as (
        insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
        select p.txn_id, 0, (select a.id from ledger_accounts a where a.owner_id = p.payer and a.kind = 'held'), null::bigint, p.mc
          from part p
        union all
        select p.txn_id, 1, (select a.id from ledger_accounts a where a.owner_id = p.payer and a.kind = 'available'), p.lot_id, -p.mc
          from part p
    )
    select array_agg(p.payer) into covered from part p;
    if cardinality(videos) > coalesce(cardinality(covered), 0) then
        for rest in
            select v.payer, v.book, array_agg(v.id order by v.place) as videos, array_agg(v.mc order by v.place) as mcs
              from unnest(videos, payers, prices_mc, books) with ordinality as v (id, payer, mc, book, place)
             where v.payer <> all (coalesce(covered, '{}')) group by v.payer, v.book
        loop
            perform set_config('app.user_id', rest.payer::text, true);
            perform ledger_hold_all(rest.videos, rest.mcs, rest.book);
        end loop;
    end if;
end;
$$;

alter function ledger_hold_each(uuid[], uuid[], bigint[], int[]) owner to flowai_ledger;
revoke all on function ledger_hold_each(uuid[], uuid[], bigint[], int[]) from public;
grant execute on function ledger_hold_each(uuid[], uuid[], bigint[], int[]) to flowai_intake;

-- queues the videos of requests, each of another user and in the order of users, holds their prices and keeps each request's answer
-- under its own key, if it has one. all videos of a request or none. gives a verdict for each request, in their order:
--   queued       it is durable when the transaction is.
--   replayed     the same request got this answer before.
--   reused       another request had the key.
--   in_progress  a request with this key is at work at this moment.
--   no_image, no_adapter, no_parent, no_after
--                what it names is not one of the owner's.
--   too_many     more of the owner's jobs would wait than may in its tier, which is the detail. `queued_caps` has the most by tier.
--   no_credits   the price is more than the owner has, which is the detail in milli-credits.
-- nothing was written but for `queued`. what is removed while this looks is an error that names its constraint.
-- arrays hold one place for each request (owners to answers), for each video in the order of events (`requests`: the place of its own,
-- from 1) and for each use of an adapter.
create function submit(
    owners uuid[], request_keys text[], hashes bytea[], answer_statuses int[], answers jsonb[],
    requests int[], videos uuid[], queued_ats timestamptz[], video_specs jsonb[], full_specs jsonb[], models text[], images uuid[],
    keyframe_models text[], wishes text[], remixes_of uuid[], start_classes text[], starts_after uuid[], prices_mc bigint[],
    price_books int[], adapter_requests int[], adapter_videos uuid[], adapters uuid[], queued_caps jsonb)
    returns table (verdict text, detail text, known_status int, known_answer jsonb)
    language plpgsql security definer
    set search_path = public, pg_temp
    -- whoever is kept waiting by one user's rows keeps those of many others.
    set lock_timeout = '1s'
    -- the plans are kept: made for each call, they take longer than the statements. and rows are found by key, however small the tables
    -- were when a connection made them: a join leaves a choice, a sub-select that stays one (`offset 0`) and a list of keys do not.
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    many constant int := cardinality(owners);
    counts int[] := array_fill(0, array[many]);
    dues_mc bigint[] := array_fill(0, array[many]);
    -- null of what is not refused yet.
    verdicts text[] := array_fill(null::text, array[many]);
    details text[];
    known_statuses int[];
    known_answers jsonb[];
    next_seqs bigint[];
    -- of what is queued, one place for each video.
    queued uuid[] := '{}';
    payers uuid[] := '{}';
    mcs bigint[] := '{}';
    books int[] := '{}';
    seqs bigint[] := '{}';
    ats timestamptz[] := '{}';
    r record;
    q int;
begin
    for i in 1 .. cardinality(videos) loop
        q := requests[i];
        if q is null or q not between 1 and many then
            raise invalid_parameter_value using message = 'a video is of one of the requests';
        end if;
        counts[q] := counts[q] + 1;
        dues_mc[q] := dues_mc[q] + prices_mc[i];
    end loop;
    for i in 1 .. many loop
        -- also the order in which rows are locked.
        if owners[i] <= owners[i - 1] then
            raise invalid_parameter_value using message = 'requests are of one user each, in the order of users';
        end if;
        if request_keys[i] is not null
           and not pg_try_advisory_xact_lock(hashtextextended('idempotency' || owners[i]::text || request_keys[i], 0)) then
            verdicts[i] := 'in_progress';
        end if;
    end loop;

    -- first, because it also makes two submissions of one user count each other.
    with stream as (
        insert into user_stream as s (user_id, seq)
        select u.owner, u.many from unnest(owners, counts) as u (owner, many) order by u.owner
            on conflict (user_id) do update set seq = s.seq + excluded.seq
        returning s.user_id, s.seq
    )
    select array_agg(s.seq order by s.user_id) into next_seqs from stream s;
    for r in
        select u.place::int, i.request_hash = u.hash as is_same, i.status, i.body
          from unnest(owners, request_keys, hashes) with ordinality as u (owner, key, hash, place),
               lateral (select i.request_hash, i.status, i.body from idempotency i
                         where i.owner_id = u.owner and i.key = u.key and i.created_at >= now() - interval '24 hours' offset 0) i
    loop
        if verdicts[r.place] is null and r.is_same then
            verdicts[r.place] := 'replayed';
            known_statuses[r.place] := r.status;
            known_answers[r.place] := r.body;
        elsif verdicts[r.place] is null then
            verdicts[r.place] := 'reused';
        end if;
    end loop;
    -- foreign keys would say so too, of all requests together.
    for r in
        select v.request,
               case when v.image is not null
                         and (select u.id from upload u where u.owner_id = owners[v.request] and u.id = v.image) is null then 'no_image'
                    when v.remix_of is not null
                         and (select j.id from job j where j.owner_id = owners[v.request] and j.id = v.remix_of) is null then 'no_parent'
                    when v.after is not null
                         and (select j.id from job j where j.owner_id = owners[v.request] and j.id = v.after) is null then 'no_after'
               end as missing
          from unnest(requests, images, remixes_of, starts_after) as v (request, image, remix_of, after)
    loop
        verdicts[r.request] := coalesce(verdicts[r.request], r.missing);
    end loop;
    if cardinality(adapters) > 0 then
        for r in
            select u.request
              from unnest(adapter_requests, adapters) as u (request, adapter)
             where (select a.id from adapter a where a.owner_id = owners[u.request] and a.id = u.adapter) is null
        loop
            verdicts[r.request] := coalesce(verdicts[r.request], 'no_adapter');
        end loop;
    end if;
    -- the lock also keeps others from the lots.
    for r in
        select array_position(owners, b.owner_id) as place, b.available_mc,
               (select a.tier from account a where a.id = b.owner_id) as tier,
               (select count(*) from job_state s where s.owner_id = b.owner_id and s.finished_at is null and s.state = 'queued') as waiting
          from credit_balances b where b.owner_id = any (owners)
         order by b.owner_id for update
    loop
        if verdicts[r.place] is not null then
            continue;
        elsif r.waiting + counts[r.place] > coalesce((queued_caps ->> r.tier)::bigint, 0) then
            verdicts[r.place] := 'too_many';
            details[r.place] := r.tier;
        elsif r.available_mc < dues_mc[r.place] then
            verdicts[r.place] := 'no_credits';
            details[r.place] := r.available_mc;
        else
            verdicts[r.place] := 'queued';
        end if;
    end loop;

    for i in 1 .. many loop
        if verdicts[i] is null then
            -- nothing was ever given to them.
            verdicts[i] := 'no_credits';
            details[i] := 0;
        end if;
        next_seqs[i] := next_seqs[i] - counts[i];
        verdict := verdicts[i];
        detail := details[i];
        known_status := known_statuses[i];
        known_answer := known_answers[i];
        return next;
    end loop;
    if 'queued' <> any (verdicts) then
        -- what is refused gives its numbers back: nobody else has seen them yet.
        update user_stream s set seq = s.seq - u.many
          from unnest(owners, counts, verdicts) as u (owner, many, verdict)
         where s.user_id = u.owner and s.user_id = any (owners) and u.verdict <> 'queued';
    end if;
    for i in 1 .. cardinality(videos) loop
        q := requests[i];
        if verdicts[q] = 'queued' then
            next_seqs[q] := next_seqs[q] + 1;
            queued := queued || videos[i];
            payers := payers || owners[q];
            mcs := mcs || prices_mc[i];
            books := books || price_books[i];
            seqs := seqs || next_seqs[q];
            ats := ats || queued_ats[i];
        end if;
    end loop;
    if queued = '{}' then
        return;
    end if;

    insert into job (id, owner_id, spec, final_spec, model_id, image_id, keyframe_model_id, prompt, parent_id, class, after_id,
                     created_at)
    select v.id, owners[v.request], v.spec, v.full_spec, v.model, v.image, v.keyframe_model, v.wish, v.remix_of, v.class, v.after,
           v.queued_at
      from unnest(requests, videos, queued_ats, video_specs, full_specs, models, images, keyframe_models, wishes, remixes_of,
                  start_classes, starts_after)
           as v (request, id, queued_at, spec, full_spec, model, image, keyframe_model, wish, remix_of, class, after)
     where verdicts[v.request] = 'queued';
    if cardinality(adapters) > 0 then
        insert into job_adapter (job_id, owner_id, adapter_id)
        select u.video, owners[u.request], u.adapter
          from unnest(adapter_requests, adapter_videos, adapters) as u (request, video, adapter)
         where verdicts[u.request] = 'queued';
    end if;
    insert into job_state (job_id, owner_id) select v.id, v.owner from unnest(queued, payers) as v (id, owner);
    insert into job_event (owner_id, user_seq, job_id, seq, kind, at)
    select v.owner, v.user_seq, v.id, 1, 'queued', v.at from unnest(queued, payers, seqs, ats) as v (id, owner, user_seq, at);
    perform ledger_hold_each(queued, payers, mcs, books);
    insert into idempotency (owner_id, key, request_hash, status, body)
    select u.owner, u.key, u.hash, u.status, u.body
      from unnest(owners, verdicts, request_keys, hashes, answer_statuses, answers) as u (owner, verdict, key, hash, status, body)
     where u.verdict = 'queued' and u.key is not null
        on conflict on constraint idempotency_key_used do update
       set request_hash = excluded.request_hash, status = excluded.status, body = excluded.body, created_at = now();
end;
$$;
alter function submit(
    uuid[], text[], bytea[], int[], jsonb[], int[], uuid[], timestamptz[], jsonb[], jsonb[], text[], uuid[], text[], text[], uuid[],
    text[], uuid[], bigint[], int[], int[], uuid[], uuid[], jsonb)
    owner to flowai_intake;
revoke all on function submit(
    uuid[], text[], bytea[], int[], jsonb[], int[], uuid[], timestamptz[], jsonb[], jsonb[], text[], uuid[], text[], text[], uuid[],
    text[], uuid[], bigint[], int[], int[], uuid[], uuid[], jsonb)
    from public;
grant execute on function submit(
    uuid[], text[], bytea[], int[], jsonb[], int[], uuid[], timestamptz[], jsonb[], jsonb[], text[], uuid[], text[], text[], uuid[],
    text[], uuid[], bigint[], int[], int[], uuid[], uuid[], jsonb)
    to flowai_app;

-- what it replaces.
drop function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, text, uuid, jsonb, bigint, int, text, bytea, int,
    jsonb);
drop function submit_videos(
    uuid, uuid[], timestamptz, jsonb[], jsonb[], text[], uuid[], text[], uuid[], uuid[], text[], uuid[], text[], uuid[], jsonb,
    bigint[], int, text, bytea, int, jsonb);
drop function ledger_hold(uuid, bigint, int);
revoke all on function ledger_hold_all(uuid[], bigint[], int) from flowai_app;
revoke insert on job, job_adapter, job_state from flowai_app;
drop policy own_queue on job_state;
revoke create on schema public from flowai_intake, flowai_ledger;
revoke flowai_intake, flowai_ledger, flowai_events from current_user;
