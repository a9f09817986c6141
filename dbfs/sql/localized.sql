-- Content of localized files: every call is one transaction on the owner's home partition.

-- Writes in_data at in_offset of a localized file, or at its end if in_offset is NULL; the file grows as needed. Returns the
-- new size. NULL: it is a parallel file, and nothing was done (dbfs_write_parallel).
CREATE OR REPLACE FUNCTION dbfs_write(in_home int8, in_user text, in_parent text, in_name text, in_offset int8,
                                      in_data bytea) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    f     record;
    other record;
    done  int4 := 0;
    total int4 := octet_length(in_data);
    start int8;
    block int8;
    at    int4;  -- offset in the block
    n     int4;  -- bytes of this block that are written
    old   bytea;
BEGIN
    UPDATE directory SET size = greatest(size, coalesce(in_offset, size) + total), version = version + 1,
                         modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name AND kind = 1 AND total > 0
        RETURNING file_id, size, block_size INTO f;
    IF NOT FOUND THEN
        SELECT kind, size, block_size INTO other FROM directory
            WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no such file: % in %', in_name, in_parent USING ERRCODE = '58P01';
        END IF;
        IF other.kind = 0 THEN
            RAISE EXCEPTION '% in % is a directory', in_name, in_parent USING ERRCODE = '42809';
        END IF;
        IF total = 0 THEN
            RETURN other.size;
        END IF;
        -- What dbfs_write_parallel is given.
        IF total > 1023 * other.block_size::int8 THEN
            RAISE EXCEPTION 'a write of % bytes, at most %', total, 1023 * other.block_size::int8
                USING ERRCODE = '54000', HINT = 'write it in several pieces';
        END IF;
        RETURN NULL;
    END IF;
    start := coalesce(in_offset, f.size - total);
    WHILE done < total LOOP
        block := (start + done) / f.block_size;
        at := (start + done) % f.block_size;
        n := least(f.block_size - at, total - done);
        IF n = f.block_size THEN
            INSERT INTO localized_file (home, file_id, block_no, data)
                VALUES (in_home, f.file_id, block, substring(in_data, done + 1, n))
                ON CONFLICT (home, file_id, block_no) DO UPDATE SET data = EXCLUDED.data;
        ELSE
            SELECT data INTO old FROM localized_file WHERE home = in_home AND file_id = f.file_id AND block_no = block;
            IF NOT FOUND THEN
                INSERT INTO localized_file (home, file_id, block_no, data)
                    VALUES (in_home, f.file_id, block,
                            decode(repeat('00', at), 'hex') || substring(in_data, done + 1, n));
            ELSE
                IF octet_length(old) < at THEN
                    old := old || decode(repeat('00', at - octet_length(old)), 'hex');
                END IF;
                UPDATE localized_file
                    SET data = substring(old, 1, at) || substring(in_data, done + 1, n) || substring(old, at + n + 1)
                    WHERE home = in_home AND file_id = f.file_id AND block_no = block;
            END IF;
        END IF;
        done := done + n;
    END LOOP;
    RETURN f.size;
END
$$;

-- Opens bytes in_offset to in_offset + in_length of a file for reading: a first row with block_no -1 tells kind, size, block
-- size and version; then, for a localized file, one row for each block in that range that is there. What is missing within
-- the size is zeros. The blocks of a parallel file are read by dbfs_read_parallel.
CREATE OR REPLACE FUNCTION dbfs_read(in_home int8, in_user text, in_parent text, in_name text, in_offset int8,
                                     in_length int8)
RETURNS TABLE (kind int4, file_size int8, block_size int4, version int8, block_no int8, data bytea)
LANGUAGE plpgsql AS $$
DECLARE
    f record;
    b record;
BEGIN
    SELECT d.kind, d.file_id, d.size, d.block_size, d.version INTO f FROM directory d
        WHERE d.home = in_home AND d.user_name = in_user AND d.parent = in_parent AND d.name = in_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    IF f.kind = 0 THEN
        RAISE EXCEPTION '% in % is a directory', in_name, in_parent USING ERRCODE = '42809';
    END IF;
    kind := f.kind;
    file_size := f.size;
    block_size := f.block_size;
    version := f.version;
    block_no := -1;
    RETURN NEXT;
    IF f.kind <> 1 THEN
        RETURN;
    END IF;
    FOR b IN SELECT l.block_no, l.data FROM localized_file l
             WHERE l.home = in_home AND l.file_id = f.file_id
               AND l.block_no BETWEEN in_offset / f.block_size AND (in_offset + in_length - 1) / f.block_size
             ORDER BY l.block_no
    LOOP
        block_no := b.block_no;
        data := b.data;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Cuts a localized file to in_size bytes or lengthens it with zeros.
CREATE OR REPLACE FUNCTION dbfs_truncate(in_home int8, in_user text, in_parent text, in_name text, in_size int8)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    f     record;
    keep  int8;  -- blocks that stay
    last  int4;  -- bytes in the last one, 0 for all
BEGIN
    SELECT kind, file_id, size, block_size INTO f FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name FOR UPDATE;
    IF NOT FOUND OR f.kind <> 1 THEN
        RAISE EXCEPTION 'no such localized file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    keep := (in_size + f.block_size - 1) / f.block_size;
    last := in_size % f.block_size;
    DELETE FROM localized_file WHERE home = in_home AND file_id = f.file_id AND block_no >= keep;
    IF last > 0 AND in_size < f.size THEN
        UPDATE localized_file SET data = substring(data, 1, last)
            WHERE home = in_home AND file_id = f.file_id AND block_no = keep - 1;
    END IF;
    UPDATE directory SET size = in_size, version = version + 1, modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
END
$$;
