-- a render may begin with words: its first frame is then made by the node, and becomes one of the owner's pictures when the
-- clip is delivered. a draft keeps beside its spec the full one, from which it is continued.

alter table job
    alter column image_id drop not null,
    add column keyframe_model_id text references model,
    -- as `spec`, of a draft: what its final will be, as it was wished for.
    add column final_spec jsonb,
    add constraint job_has_one_first_frame check ((image_id is null) = (keyframe_model_id is not null));

-- the picture outlives the video, and cannot be removed under it.
alter table artefact
    add column keyframe_id uuid,
    add constraint artefact_keyframe_not_found foreign key (owner_id, keyframe_id) references upload (owner_id, id);
create index artefact_keyframe on artefact (owner_id, keyframe_id) where keyframe_id is not null;

-- the leader stores delivered keyframes as pictures, and nothing else.
grant insert on upload to flowai_coordinator;
create policy delivered_keyframe on upload for insert to flowai_coordinator with check (purpose = 'image');

-- what was written before named its picture by `image`. the owner of the tables is bound by the policies as well.
create policy rewrite on job to current_user using (true) with check (true);
update job set spec = (spec - 'image') || jsonb_build_object('first_frame', jsonb_build_object('image', spec -> 'image'))
 where spec ? 'image';
drop policy rewrite on job;
create policy rewrite on artefact to current_user using (true) with check (true);
update artefact
   set manifest = manifest || jsonb_build_object(
           'manifest_version', 2,
           'spec', ((manifest -> 'spec') - 'image')
                   || jsonb_build_object('first_frame', jsonb_build_object('image', manifest -> 'spec' -> 'image')))
 where (manifest -> 'spec') ? 'image';
drop policy rewrite on artefact;

-- as before, and a video may have no picture yet, or a full spec beside its own.
drop function submit_video(uuid, uuid, timestamptz, jsonb, text, uuid, uuid[], text, uuid, bigint, text, bytea, int, jsonb);

-- queues a video on behalf of `owner` and keeps the answer under the request's own key, if it has one.
-- `queued`: it is durable when this returns. `replayed`: the same request got this answer before. `reused`: another request
-- had the key. `in_progress`: a request with this key is at work at this moment. nothing was written but for `queued`.
-- too many waiting jobs, a picture, an adapter or a parent that is not the owner's are errors that name their constraint.
create function submit_video(
    owner uuid, video uuid, queued_at timestamptz, video_spec jsonb, full_spec jsonb, model text, image uuid,
    keyframe_model text, adapters uuid[], wish text, remix_of uuid, queued_max bigint, request_key text, hash bytea,
    answer_status int, answer jsonb)
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
    insert into job (id, owner_id, spec, final_spec, model_id, image_id, keyframe_model_id, prompt, parent_id, created_at)
        values (video, owner, video_spec, full_spec, model, image, keyframe_model, wish, remix_of, queued_at);
    if cardinality(adapters) > 0 then
        insert into job_adapter (job_id, owner_id, adapter_id) select video, owner, unnest(adapters);
    end if;
    insert into job_state (job_id, owner_id) values (video, owner);
    insert into job_event (owner_id, user_seq, job_id, seq, kind, at) values (owner, next_seq, video, 1, 'queued', queued_at);
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
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, bigint, text, bytea, int, jsonb) from public;
grant execute on function submit_video(
    uuid, uuid, timestamptz, jsonb, jsonb, text, uuid, text, uuid[], text, uuid, bigint, text, bytea, int, jsonb)
    to flowai_app;
