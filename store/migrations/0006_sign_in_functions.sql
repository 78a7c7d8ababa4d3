-- what happens before anybody is known: the api may call these and nothing else on the tables behind them.

create function auth_sign_up(new_id uuid, new_email text, new_password_hash text) returns void
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    insert into account (id, email) values (new_id, new_email);
    insert into credential (user_id, password_hash) values (new_id, new_password_hash);
end;

create function auth_by_email(wanted_email text)
    returns table (user_id uuid, password_hash text, suspended boolean)
    language sql stable security definer
    set search_path = public, pg_temp
begin atomic
    select a.id, c.password_hash, a.suspended_at is not null
      from account a join credential c on c.user_id = a.id
     where a.email = wanted_email;
end;

create function auth_open_sign_in(new_id uuid, for_user uuid, family bytea, secret bytea, until timestamptz) returns void
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    insert into sign_in (id, user_id, family_hash, secret_hash, expires_at)
    values (new_id, for_user, family, secret, until);
end;

-- replaces a refresh token's secret. `rotated`: the caller has the new one. `grace`: the secret before was used again within
-- the grace time (two tabs, a lost answer); the caller gets an access token and no new refresh token. anything else is no
-- row, and an old secret, however old, has ended the whole sign-in.
create function auth_rotate(family bytea, secret bytea, new_secret bytea, grace interval, until timestamptz)
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
    update sign_in s set revoked_at = now() where s.family_hash = family and s.revoked_at is null;
end;
$$;

create function auth_end_sign_ins(for_user uuid, only_id uuid) returns void
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    update sign_in set revoked_at = now()
     where user_id = for_user and revoked_at is null and (only_id is null or id = only_id);
end;

create function auth_sign_in_is_open(wanted_id uuid) returns boolean
    language sql stable security definer
    set search_path = public, pg_temp
begin atomic
    select exists (select from sign_in s join account a on a.id = s.user_id
                    where s.id = wanted_id and s.revoked_at is null and s.expires_at > now()
                      and a.suspended_at is null);
end;

create function auth_by_api_key(wanted_hash bytea)
    returns table (key_id uuid, user_id uuid, scopes text[], suspended boolean)
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    update api_key k set last_used_at = now()
     where k.key_hash = wanted_hash and (k.last_used_at is null or k.last_used_at < now() - interval '1 minute');
    select k.id, k.owner_id, k.scopes, a.suspended_at is not null
      from api_key k join account a on a.id = k.owner_id
     where k.key_hash = wanted_hash and k.revoked_at is null and (k.expires_at is null or k.expires_at > now());
end;

-- for whoever owns the database, not for a program.
create function auth_make_admin(wanted_email text) returns boolean
    language plpgsql security definer
    set search_path = public, pg_temp
as $$
begin
    update account set role = 'admin' where email = wanted_email;
    return found;
end;
$$;

-- a function of a role is made the role's own by somebody who may act as it and while it may create in the schema.
grant create on schema public to flowai_auth;
grant flowai_auth to current_user;
alter function auth_sign_up(uuid, text, text) owner to flowai_auth;
alter function auth_by_email(text) owner to flowai_auth;
alter function auth_open_sign_in(uuid, uuid, bytea, bytea, timestamptz) owner to flowai_auth;
alter function auth_rotate(bytea, bytea, bytea, interval, timestamptz) owner to flowai_auth;
alter function auth_end_sign_ins(uuid, uuid) owner to flowai_auth;
alter function auth_sign_in_is_open(uuid) owner to flowai_auth;
alter function auth_by_api_key(bytea) owner to flowai_auth;
alter function auth_make_admin(text) owner to flowai_auth;
revoke flowai_auth from current_user;
revoke create on schema public from flowai_auth;

revoke all on all functions in schema public from public;
grant execute on function
    auth_sign_up(uuid, text, text), auth_by_email(text), auth_open_sign_in(uuid, uuid, bytea, bytea, timestamptz),
    auth_rotate(bytea, bytea, bytea, interval, timestamptz), auth_end_sign_ins(uuid, uuid), auth_sign_in_is_open(uuid), auth_by_api_key(bytea)
    to flowai_app;
grant execute on function auth_make_admin(text) to current_user;
