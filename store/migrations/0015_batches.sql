-- many videos in one submission, and a single one in less time. most of what a submission costs the server is the set-up of
-- statements, their checks included, and not rows: it is worth a statement for all videos of a batch, and for a single one none
-- that is set up for more tables than it nearly always writes.

-- a function of a role is made and replaced by somebody who may act as it.
grant create on schema public to flowai_ledger;
grant flowai_ledger to current_user;

-- takes the prices of jobs of the user on whose behalf the transaction acts, in this order, from the credits that came first.
-- an error that names `credits_insufficient`, and as its detail what is available, when that is less than all of them.
create function ledger_hold_all(videos uuid[], prices_mc bigint[], book int) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
declare
    payer uuid := app_user();
    total bigint := (select sum(p) from unnest(prices_mc) p);
    available bigint;
begin
    if (select count(*) from job j where j.id = any (videos) and j.owner_id = payer) <> cardinality(videos)
       or cardinality(prices_mc) <> cardinality(videos) then
        raise insufficient_privilege using message = 'only own jobs are paid for';
    end if;
    -- also keeps others from the lots.
    select b.available_mc into available from credit_balances b where b.owner_id = payer for update;
    if available is null or available < total then
        raise check_violation using constraint = 'credits_insufficient', message = 'not enough credits are available',
                                    detail = coalesce(available, 0)::text;
    end if;
    update credit_balances b set available_mc = b.available_mc - total, held_mc = b.held_mc + total where b.owner_id = payer;
    -- prices and lots laid end to end along one line: what a price takes from a lot is where they overlap.
    with wanted as (
        select w.job_id, w.mc, (sum(w.mc) over (order by w.place) - w.mc)::bigint as since,
               sum(w.mc) over (order by w.place)::bigint as upto
          from unnest(videos, prices_mc) with ordinality as w (job_id, mc, place)
    ), lot as (
        select l.id, (sum(l.remaining_mc) over (order by l.id) - l.remaining_mc)::bigint as since,
               sum(l.remaining_mc) over (order by l.id)::bigint as upto
          from credit_lots l where l.owner_id = payer and not l.is_spent
    ), part as (
        select w.job_id, w.mc as price_mc, l.id as lot_id, least(w.upto, l.upto) - greatest(w.since, l.since) as mc
          from wanted w join lot l on l.since < w.upto and w.since < l.upto
    ), taken as (
        update credit_lots l set remaining_mc = l.remaining_mc - t.mc
          from (select p.lot_id, sum(p.mc)::bigint as mc from part p group by p.lot_id) t
         where l.id = t.lot_id
    ), hold as (
        insert into credit_holds (job_id, owner_id, amount_mc, price_book, lot_ids, lot_mcs)
        select p.job_id, payer, p.price_mc, book, array_agg(p.lot_id order by p.lot_id), array_agg(p.mc order by p.lot_id)
          from part p group by p.job_id, p.price_mc
    ), txn as (
        insert into ledger_txns (kind, business_id, owner_id, job_id)
        select 'hold', 'hold:' || w.job_id, payer, w.job_id from wanted w
        returning id, job_id
    ), side as (
        select t.id as txn_id, 'held' as kind, 0 as place, null::bigint as lot_id, w.mc
          from txn t join wanted w on w.job_id = t.job_id
        union all
        select t.id, 'available', row_number() over (partition by t.id order by p.lot_id), p.lot_id, -p.mc
          from txn t join part p on p.job_id = t.job_id
    )
    insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
    select s.txn_id, s.place, a.id, s.lot_id, s.mc
      from side s join ledger_accounts a on a.owner_id = payer and a.kind = s.kind;
end;
$$;

-- the same for one job. one lot nearly always covers the price, and then no other is looked at.
create or replace function ledger_hold(video uuid, price_mc bigint, book int) returns void
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
declare
    payer uuid := app_user();
    available bigint;
    txn bigint;
    lot bigint;
begin
    if not exists (select from job j where j.id = video and j.owner_id = payer) then
        raise insufficient_privilege using message = 'only an own job is paid for';
    end if;
    -- also keeps others from the lots.
    select b.available_mc into available from credit_balances b where b.owner_id = payer for update;
    if available is null or available < price_mc then
        raise check_violation using constraint = 'credits_insufficient', message = 'not enough credits are available',
                                    detail = coalesce(available, 0)::text;
    end if;
    update credit_lots l set remaining_mc = l.remaining_mc - price_mc
     where l.id = (select f.id from credit_lots f where f.owner_id = payer and not f.is_spent order by f.id limit 1)
       and l.remaining_mc >= price_mc
    returning l.id into lot;
    if lot is null then
        perform ledger_hold_all(array[video], array[price_mc], book);
        return;
    end if;
    update credit_balances b set available_mc = b.available_mc - price_mc, held_mc = b.held_mc + price_mc
     where b.owner_id = payer;
    insert into credit_holds (job_id, owner_id, amount_mc, price_book, lot_ids, lot_mcs)
        values (video, payer, price_mc, book, array[lot], array[price_mc]);
    insert into ledger_txns (kind, business_id, owner_id, job_id)
        values ('hold', 'hold:' || video, payer, video) returning id into txn;
    insert into ledger_entries (txn_id, place, account_id, lot_id, amount_mc)
    select txn, s.place, a.id, s.lot_id, s.mc
      from (values ('held', 0, null::bigint, price_mc), ('available', 1, lot, -price_mc)) as s (kind, place, lot_id, mc)
      join ledger_accounts a on a.owner_id = payer and a.kind = s.kind;
end;
$$;

alter function ledger_hold_all(uuid[], bigint[], int) owner to flowai_ledger;
revoke all on function ledger_hold_all(uuid[], bigint[], int) from public;
grant execute on function ledger_hold_all(uuid[], bigint[], int) to flowai_app;
revoke flowai_ledger from current_user;
revoke create on schema public from flowai_ledger;

-- `submit_video` for many videos of one owner, all of them or none, with one answer for all under the request's own key.
-- verdicts and errors are those of `submit_video`; an error names no video. arrays hold one place for each video, in the order
-- of their events; `adapter_videos` and `adapters` one for each use.
create function submit_videos(
    owner uuid, videos uuid[], queued_at timestamptz, video_specs jsonb[], full_specs jsonb[], models text[], images uuid[],
    keyframe_models text[], adapter_videos uuid[], adapters uuid[], wishes text[], remixes_of uuid[], start_classes text[],
    starts_after uuid[], queued_caps jsonb, prices_mc bigint[], price_book int, request_key text, hash bytea, answer_status int,
    answer jsonb)
    returns table (verdict text, known_status int, known_answer jsonb)
    language plpgsql
    set search_path = public, pg_temp
as $$
declare
    known record;
    last_seq bigint;
    owner_tier text;
    queued_max bigint;
    many constant int := cardinality(videos);
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
    insert into user_stream (user_id, seq) values (owner, many)
        on conflict (user_id) do update set seq = user_stream.seq + many returning seq into last_seq;
    select a.tier, (queued_caps ->> a.tier)::bigint into owner_tier, queued_max from account a where a.id = owner;
    if (select count(*) from job_state s where s.owner_id = owner and s.finished_at is null and s.state = 'queued') + many
       > coalesce(queued_max, 0) then
        raise check_violation using constraint = 'job_too_many_queued', message = 'too many jobs of the owner wait',
            detail = owner_tier;
    end if;
    -- the policies show only the owner's own.
    if exists (select from unnest(starts_after) as a (id)
                where a.id is not null and not exists (select from job j where j.id = a.id)) then
        raise foreign_key_violation using constraint = 'job_after_not_found', message = 'the job to start after is not there';
    end if;
    insert into job (id, owner_id, spec, final_spec, model_id, image_id, keyframe_model_id, prompt, parent_id, class, after_id,
                     created_at)
    select v.id, owner, v.spec, v.full_spec, v.model, v.image, v.keyframe_model, v.wish, v.remix_of, v.class, v.after, queued_at
      from unnest(videos, video_specs, full_specs, models, images, keyframe_models, wishes, remixes_of, start_classes,
                  starts_after) as v (id, spec, full_spec, model, image, keyframe_model, wish, remix_of, class, after);
    if cardinality(adapters) > 0 then
        insert into job_adapter (job_id, owner_id, adapter_id)
        select u.video, owner, u.adapter from unnest(adapter_videos, adapters) as u (video, adapter);
    end if;
    insert into job_state (job_id, owner_id) select v.id, owner from unnest(videos) as v (id);
    insert into job_event (owner_id, user_seq, job_id, seq, kind, at)
    select owner, last_seq - many + v.place, v.id, 1, 'queued', queued_at from unnest(videos) with ordinality as v (id, place);
    perform ledger_hold_all(videos, prices_mc, price_book);
    if request_key is not null then
        insert into idempotency (owner_id, key, request_hash, status, body)
            values (owner, request_key, hash, answer_status, answer)
            on conflict on constraint idempotency_key_used do update
            set request_hash = excluded.request_hash, status = excluded.status, body = excluded.body, created_at = now();
    end if;
    return query select 'queued', null::int, null::jsonb;
end;
$$;
revoke all on function submit_videos(
    uuid, uuid[], timestamptz, jsonb[], jsonb[], text[], uuid[], text[], uuid[], uuid[], text[], uuid[], text[], uuid[], jsonb,
    bigint[], int, text, bytea, int, jsonb)
    from public;
grant execute on function submit_videos(
    uuid, uuid[], timestamptz, jsonb[], jsonb[], text[], uuid[], text[], uuid[], uuid[], text[], uuid[], text[], uuid[], jsonb,
    bigint[], int, text, bytea, int, jsonb)
    to flowai_app;
