package audit

// Disk is where a log writes, for tests of disks that fail.
type Disk = disk

// WithDisk returns the configuration with another way to open files.
func WithDisk(c Config, create func(name string, flags int) (Disk, error)) Config {
	c.create = create
	return c
}

// OpenDisk is the way in which logs open files.
func OpenDisk(name string, flags int) (Disk, error) { return openDisk(name, flags) }

// DecodeEntry reads the record of a receipt, and returns it encoded again.
func DecodeEntry(record []byte) (Receipt, []byte, error) { return decodeEntry(record, nil) }

// DecodeHeader reads the record of a header, and returns it encoded again.
func DecodeHeader(record []byte) ([]byte, error) {
	h, err := decodeHeader(record)
	if err != nil {
		return nil, err
	}
	return h.append(nil), nil
}

// Reframe returns the file with its chain made anew, as somebody without the key would after changing records.
func Reframe(file []byte, change func(i int, record []byte) []byte) []byte {
	out := append([]byte(nil), file[:len(magic)]...)
	var head [32]byte
	rest := file[len(magic):]
	for i := 0; len(rest) > 0; i++ {
		size := int(rest[0])<<24 | int(rest[1])<<16 | int(rest[2])<<8 | int(rest[3])
		record := rest[headSize : headSize+size]
		if i == 0 {
			h, err := decodeHeader(record)
			if err != nil {
				panic(err)
			}
			head = h.previous
		}
		if record = change(i, append([]byte(nil), record...)); record != nil {
			buf, start := beginFrame(out)
			out = endFrame(append(buf, record...), start, &head)
		}
		rest = rest[frameSize+size:]
	}
	return out
}
