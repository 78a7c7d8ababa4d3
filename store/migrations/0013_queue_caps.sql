-- how many jobs may wait, of one user and of all. a cap that is the same for everybody is too high for who pays nothing and too low
-- for a studio, and without one for the farm its queue grows until the leader cannot hold it.

-- of one user it is counted in the submission itself, behind the lock of the user's stream, so that no two pass it together. the tier
-- is that of the account at this moment.
drop function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, text, uuid, bigint, bigint, int, text, bytea, int,
    jsonb);

-- queues a video on behalf of `owner`, holds its price and keeps the answer under the request's own key, if it has one.
-- `queued_caps`: the most jobs that may wait, by tier. `queued`: it is durable when this returns. `replayed`: the same request got
-- this answer before. `reused`: another request had the key. `in_progress`: a request with this key is at work at this moment.
-- nothing was written but for `queued`. too few credits, too many waiting jobs (the detail is the tier), a picture, an adapter or a
-- parent that is not the owner's are errors that name their constraint.
create function submit_video(
    owner uuid, video uuid, queued_at timestamptz, video_spec jsonb, full_spec jsonb, model text, image uuid,
    keyframe_model text, adapters uuid[], wish text, remix_of uuid, start_class text, start_after uuid, queued_caps jsonb,
    price_mc bigint, price_book int, request_key text, hash bytea, answer_status int, answer jsonb)
    returns table (verdict text, known_status int, known_answer jsonb)
    language plpgsql
    set search_path = public, pg_temp
as $$
declare
    known record;
    next_seq bigint;
    owner_tier text;
    queued_max bigint;
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
    select a.tier, (queued_caps ->> a.tier)::bigint into owner_tier, queued_max from account a where a.id = owner;
    if (select count(*) from job_state s where s.owner_id = owner and s.finished_at is null and s.state = 'queued')
        >= coalesce(queued_max, 0) then
        raise check_violation using constraint = 'job_too_many_queued', message = 'too many jobs of the owner wait',
            detail = owner_tier;
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
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, text, uuid, jsonb, bigint, int, text, bytea, int,
    jsonb)
    from public;
grant execute on function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, text, uuid, jsonb, bigint, int, text, bytea, int,
    jsonb)
    to flowai_app;

-- of all users it is looked at now and then: a counter that every submission changes would make them wait for each other. the api
-- sees no row of others, and learns no more here than whether there are so many. those that run are counted as well: they are few.
grant select (finished_at) on job_state to flowai_auth;
create policy counted on job_state for select to flowai_auth using (true);
create function farm_queue_reaches(jobs bigint) returns boolean
    language sql stable security definer
    set search_path = public, pg_temp
begin atomic
    select count(*) >= jobs
      from (select from job_state where finished_at is null limit jobs) unfinished;
end;
grant create on schema public to flowai_auth;
grant flowai_auth to current_user;
alter function farm_queue_reaches(bigint) owner to flowai_auth;
revoke all on function farm_queue_reaches(bigint) from public;
grant execute on function farm_queue_reaches(bigint) to flowai_app;
revoke flowai_auth from current_user;
revoke create on schema public from flowai_auth;
