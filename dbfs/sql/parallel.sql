-- Content of parallel files: each call is one transaction over the home and the partitions of the blocks concerned.

-- Partition key of a block: consecutive blocks of a file go to consecutive slots.
CREATE OR REPLACE FUNCTION dbfs_block_key(in_file_id int8, in_block_no int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS $$
    SELECT in_file_id % 1073741824 + in_block_no
$$;

-- Writes in_data (not empty) at in_offset of a parallel file, or at its end if in_offset is NULL; the file grows as needed.
-- Returns the new size.
CREATE OR REPLACE FUNCTION dbfs_write_parallel(in_home int8, in_user text, in_parent text, in_name text, in_offset int8,
                                               in_data bytea) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    f       record;
    old     bytea;
    content bytea := in_data;  -- of whole blocks, in the end
    start   int8;              -- of in_data in the file
    stop    int8;
    first   int8;              -- blocks
    last    int8;
    head    int4;              -- bytes of the first block before in_data
    used    int4;              -- bytes of the last block up to the end of in_data, 0 for all
    edge    int8;              -- key of a block of which a part stays
BEGIN
    UPDATE directory SET size = greatest(size, coalesce(in_offset, size) + octet_length(in_data)), version = version + 1,
                         modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name AND kind = 2
        RETURNING file_id, size, block_size INTO f;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such parallel file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    start := coalesce(in_offset, f.size - octet_length(in_data));
    stop := start + octet_length(in_data);
    first := start / f.block_size;
    last := (stop - 1) / f.block_size;
    head := start % f.block_size;
    used := stop % f.block_size;
    IF head > 0 THEN
        edge := dbfs_block_key(f.file_id, first);
        SELECT p.data INTO old FROM parallel_file p
            WHERE p.block_key = edge AND p.file_id = f.file_id AND p.block_no = first;
        old := substring(coalesce(old, decode('', 'hex')), 1, head);
        content := old || decode(repeat('00', head - octet_length(old)), 'hex') || content;
    END IF;
    IF used > 0 AND stop < f.size THEN
        edge := dbfs_block_key(f.file_id, last);
        SELECT p.data INTO old FROM parallel_file p
            WHERE p.block_key = edge AND p.file_id = f.file_id AND p.block_no = last;
        content := content || substring(coalesce(old, decode('', 'hex')), used + 1);
    END IF;
    INSERT INTO parallel_file (block_key, file_id, block_no, data)
        SELECT dbfs_block_key(f.file_id, b.n), f.file_id, b.n,
               substring(content, ((b.n - first) * f.block_size)::int4 + 1, f.block_size)
        FROM generate_series(first, last) AS b(n)
        ON CONFLICT (block_key, file_id, block_no) DO UPDATE SET data = EXCLUDED.data;
    RETURN f.size;
END
$$;

-- As dbfs_read, for a parallel file; all of it as of one moment.
CREATE OR REPLACE FUNCTION dbfs_read_parallel(in_home int8, in_user text, in_parent text, in_name text, in_offset int8,
                                              in_length int8)
RETURNS TABLE (kind int4, file_size int8, block_size int4, version int8, block_no int8, data bytea)
LANGUAGE plpgsql AS $$
DECLARE
    f        record;
    b        record;
    from_key int8;
    to_key   int8;
BEGIN
    SELECT d.kind, d.file_id, d.size, d.block_size, d.version INTO f FROM directory d
        WHERE d.home = in_home AND d.user_name = in_user AND d.parent = in_parent AND d.name = in_name;
    IF NOT FOUND OR f.kind <> 2 THEN
        RAISE EXCEPTION 'no such parallel file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    kind := f.kind;
    file_size := f.size;
    block_size := f.block_size;
    version := f.version;
    block_no := -1;
    RETURN NEXT;
    from_key := dbfs_block_key(f.file_id, in_offset / f.block_size);
    to_key := dbfs_block_key(f.file_id, (least(in_offset + in_length, f.size) - 1) / f.block_size);
    FOR b IN SELECT p.block_no, p.data FROM parallel_file p
             WHERE p.block_key BETWEEN from_key AND to_key AND p.file_id = f.file_id
             ORDER BY p.block_no
    LOOP
        block_no := b.block_no;
        data := b.data;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Cuts a parallel file to in_size bytes or lengthens it with zeros.
CREATE OR REPLACE FUNCTION dbfs_truncate_parallel(in_home int8, in_user text, in_parent text, in_name text, in_size int8)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    f        record;
    keep     int8;  -- blocks that stay
    last     int4;  -- bytes in the last one, 0 for all
    from_key int8;
    to_key   int8;
BEGIN
    SELECT kind, file_id, size, block_size INTO f FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name FOR UPDATE;
    IF NOT FOUND OR f.kind <> 2 THEN
        RAISE EXCEPTION 'no such parallel file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    keep := (in_size + f.block_size - 1) / f.block_size;
    last := in_size % f.block_size;
    IF in_size < f.size THEN
        from_key := dbfs_block_key(f.file_id, keep);
        to_key := dbfs_block_key(f.file_id, (f.size - 1) / f.block_size);
        DELETE FROM parallel_file WHERE block_key BETWEEN from_key AND to_key AND file_id = f.file_id;
        IF last > 0 THEN
            from_key := dbfs_block_key(f.file_id, keep - 1);
            UPDATE parallel_file SET data = substring(data, 1, last)
                WHERE block_key = from_key AND file_id = f.file_id AND block_no = keep - 1;
        END IF;
    END IF;
    UPDATE directory SET size = in_size, version = version + 1, modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
END
$$;

-- Deletes a parallel file with its blocks.
CREATE OR REPLACE FUNCTION dbfs_delete_parallel(in_home int8, in_user text, in_parent text, in_name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dbfs_truncate_parallel(in_home, in_user, in_parent, in_name, 0);
    DELETE FROM directory WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
END
$$;

-- Cuts a file of either kind into blocks of in_block_size bytes. Larger files than 4 MiB are copied under another name
-- instead (54000).
CREATE OR REPLACE FUNCTION dbfs_set_block_size(in_home int8, in_user text, in_parent text, in_name text,
                                               in_block_size int4) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    f        record;
    b        record;
    content  bytea := decode('', 'hex');
    from_key int8;
    to_key   int8;
BEGIN
    SELECT kind, file_id, size, block_size INTO f FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    IF f.kind = 0 THEN
        RAISE EXCEPTION '% in % is a directory', in_name, in_parent USING ERRCODE = '42809';
    END IF;
    IF f.size > 4194304 THEN
        RAISE EXCEPTION 'file % has % bytes, more than are cut anew in one transaction', in_name, f.size
            USING ERRCODE = '54000', HINT = 'copy it into a new file of that block size, and rename that';
    END IF;
    IF f.kind = 1 THEN
        FOR b IN SELECT l.block_no, l.data FROM localized_file l
                 WHERE l.home = in_home AND l.file_id = f.file_id ORDER BY l.block_no
        LOOP
            content := content
                || decode(repeat('00', (b.block_no * f.block_size)::int4 - octet_length(content)), 'hex') || b.data;
        END LOOP;
        DELETE FROM localized_file WHERE home = in_home AND file_id = f.file_id;
    ELSE
        from_key := dbfs_block_key(f.file_id, 0);
        to_key := dbfs_block_key(f.file_id, f.size / f.block_size);
        FOR b IN SELECT p.block_no, p.data FROM parallel_file p
                 WHERE p.block_key BETWEEN from_key AND to_key AND p.file_id = f.file_id ORDER BY p.block_no
        LOOP
            content := content
                || decode(repeat('00', (b.block_no * f.block_size)::int4 - octet_length(content)), 'hex') || b.data;
        END LOOP;
        DELETE FROM parallel_file WHERE block_key BETWEEN from_key AND to_key AND file_id = f.file_id;
    END IF;
    UPDATE directory SET block_size = in_block_size, version = version + 1, modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
    IF octet_length(content) = 0 THEN
        RETURN;
    ELSIF f.kind = 1 THEN
        PERFORM dbfs_write(in_home, in_user, in_parent, in_name, 0, content);
    ELSE
        PERFORM dbfs_write_parallel(in_home, in_user, in_parent, in_name, 0, content);
    END IF;
END
$$;
