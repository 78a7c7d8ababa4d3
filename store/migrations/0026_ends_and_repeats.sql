-- what ended says which: an api forgets what it remembers of those, and of nothing else.

grant flowai_auth, flowai_ledger to current_user;
grant create on schema public to flowai_auth;

-- as in 0006; a token that comes again says whose sign-in it has ended.
create or replace function auth_rotate(family bytea, secret bytea, new_secret bytea, grace interval, until timestamptz)
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

drop function auth_end_sign_ins(uuid, uuid);
create function auth_end_sign_ins(for_user uuid, only_id uuid) returns setof uuid
    language sql security definer
    set search_path = public, pg_temp
begin atomic
    update sign_in set revoked_at = now()
     where user_id = for_user and revoked_at is null and (only_id is null or id = only_id)
    returning id;
end;
alter function auth_end_sign_ins(uuid, uuid) owner to flowai_auth;
revoke all on function auth_end_sign_ins(uuid, uuid) from public;
grant execute on function auth_end_sign_ins(uuid, uuid) to flowai_app;

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
