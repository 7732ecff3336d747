package secret

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
	"golang.org/x/sys/unix"

	"slipway/crash"
	"slipway/db"
)

// Box seals and opens with the master key.
type Box struct {
	key  tink.AEAD
	file string
	made bool // just now: there was no key
}

// OpenBox reads the master key in file, or makes it (0600). A key that others
// may read, or that is none, is errdefs.ErrFailedPrecondition.
func OpenBox(file string) (*Box, error) {
	b, err := openBox(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeKey(file); err == nil || errors.Is(err, fs.ErrExist) {
			made := err == nil
			if b, err = openBox(file); err == nil {
				b.made = made
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	return b, nil
}

func openBox(file string) (*Box, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if s, err := f.Stat(); err != nil {
		return nil, err
	} else if s.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read %s: chmod 600 it: %w", file, errdefs.ErrFailedPrecondition)
	}
	// What Read says about a broken file could hold parts of a key.
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(f))
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: restore it from a backup: %w", file, errdefs.ErrFailedPrecondition)
	}
	key, err := aead.New(h)
	if err != nil {
		return nil, fmt.Errorf("%s holds another kind of key: %w", file, errdefs.ErrFailedPrecondition)
	}
	return &Box{key: key, file: file}, nil
}

// makeKey writes a new key so that there is a whole one or none, and never in
// place of another.
func makeKey(file string) error {
	h, err := keyset.NewHandle(aead.XAES256GCM192BitNonceKeyTemplate())
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&text)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link would leave a second name of the key to who is killed here.
	err = unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, file, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not on this file system
		err = os.Link(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	crash.At("secret: the master key is made")
	return nil
}

// Seal encrypts text bound to a row: opening it as another row's fails.
func (b *Box) Seal(text []byte, row string) ([]byte, error) {
	if row == "" {
		return nil, errors.New("seal: no row")
	}
	sealed, err := b.key.Encrypt(text, []byte(row))
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", row, err)
	}
	return sealed, nil
}

// Open decrypts what Seal gave. errdefs.ErrDataLoss if it was sealed with
// another key or for another row, or was changed.
func (b *Box) Open(sealed []byte, row string) ([]byte, error) {
	text, err := b.key.Decrypt(sealed, []byte(row))
	if err != nil {
		return nil, fmt.Errorf("%s does not open with the master key %s: %w", row, b.file, errdefs.ErrDataLoss)
	}
	return text, nil
}

const sealRow = "seal"

// Guard makes sure that the box has the key that the store was sealed with, and
// is called before anything is opened or sealed. A lost or wrong key is
// errdefs.ErrFailedPrecondition; a key that OpenBox had to make is taken away
// again then, so that the right one finds its place free.
func (b *Box) Guard(ctx context.Context, d *db.DB) error {
	var sealed []byte
	err := d.Read(ctx, func(tx *db.Tx) error { return tx.QueryRow(`SELECT sealed FROM seals`).Scan(&sealed) })
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return b.mark(ctx, d)
	case err != nil:
		return fmt.Errorf("master key: %w", err)
	}
	if _, err := b.Open(sealed, sealRow); err == nil {
		return nil
	}
	if b.made {
		err := fmt.Errorf("master key: %s is lost, and the database was encrypted with it: restore it from a backup: %w",
			b.file, errdefs.ErrFailedPrecondition)
		return errors.Join(err, os.Remove(b.file))
	}
	return fmt.Errorf("master key: %s is not the one that the database was encrypted with: restore that from a backup: %w",
		b.file, errdefs.ErrFailedPrecondition)
}

// mark leaves something sealed in the store, to know the key again.
func (b *Box) mark(ctx context.Context, d *db.DB) error {
	sealed, err := b.Seal([]byte(sealRow), sealRow)
	if err != nil {
		return err
	}
	err = d.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`INSERT INTO seals (id, sealed) VALUES (1, ?)`, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	return nil
}
