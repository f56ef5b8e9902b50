package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/store"
)

// applicationID marks a file as a store: "CVGS".
const applicationID = 0x43564753

// migrations lead from one version of the schema to the next; the first makes it. A change of the schema
// is a new entry, and no entry is ever altered.
//
// The rows of entries are ordered by when they were made, and found by an index: what is made together
// changes together, and so shares pages. Ordered by key they would cost a page each.
//
// A sum is the CRC-32C of an entry: SQLite checks the structure of its pages and not what they hold.
var migrations = []string{`
	CREATE TABLE entries (
		key      TEXT    PRIMARY KEY NOT NULL,
		revision INTEGER NOT NULL,
		sum      INTEGER NOT NULL,
		value    BLOB    NOT NULL
	) STRICT;
	CREATE TABLE counter (
		id       INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
		revision INTEGER NOT NULL
	) STRICT;
	INSERT INTO counter VALUES (1, 0);`,
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum covers all of an entry, so a value cannot end up under another key or revision.
func sum(key string, rev store.Revision, value []byte) int64 {
	var head [16]byte
	binary.BigEndian.PutUint64(head[:], uint64(rev))
	binary.BigEndian.PutUint64(head[8:], uint64(len(key)))
	crc := crc32.Update(0, castagnoli, head[:])
	crc = crc32.Update(crc, castagnoli, []byte(key))
	return int64(crc32.Update(crc, castagnoli, value))
}

// checkHeader looks at the first bytes of a file, so that one of another application is refused before
// SQLite touches it.
func checkHeader(path string) error {
	var header [100]byte
	if err := readHeader(path, header[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damage("the file is empty or cut off")
	} else if err != nil {
		return err
	}
	if string(header[:16]) != "SQLite format 3\x00" {
		return advice.On(fmt.Errorf("%w: it is no SQLite database, or its start is damaged", ErrForeign), hintForeign)
	}
	if id := binary.BigEndian.Uint32(header[68:]); id != applicationID {
		return advice.On(fmt.Errorf("%w: it is a database of another application (application_id %#x)", ErrForeign, id), hintForeign)
	}
	return checkVersion(int64(binary.BigEndian.Uint32(header[60:])))
}

func readHeader(path string, header []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadFull(f, header)
	return err
}

func checkVersion(version int64) error {
	if version > int64(len(migrations)) {
		err := fmt.Errorf("%w: its schema has version %d, this one knows %d", ErrNewer, version, len(migrations))
		return advice.On(err, hintNewer)
	}
	return nil
}

// check reads the whole database and reports damage to its structure, and keys that the index and the
// table disagree on: a quick_check would let a key vanish from lists. It takes some 2.5 s for a million
// entries.
func check(ctx context.Context, c *conn) error {
	found, err := c.valueContext(ctx, "PRAGMA integrity_check(1)")
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return explained(err)
	}
	if found != "ok" {
		return damage("%v", found)
	}
	return nil
}

// migrate brings the schema to the version that steps lead to.
func migrate(c *conn, steps []string) error {
	version, err := c.integer("PRAGMA user_version")
	if err != nil {
		return err
	}
	for i := version; i < int64(len(steps)); i++ {
		sql := fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; COMMIT", steps[i], i+1)
		if err := c.exec(sql); err != nil {
			c.exec("ROLLBACK") // what is left of it
			return fmt.Errorf("migrate the schema from version %d to %d: %w", i, i+1, err)
		}
	}
	return nil
}
