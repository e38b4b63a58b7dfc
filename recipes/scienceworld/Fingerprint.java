package eexp;

import java.lang.reflect.Array;
import sun.misc.Unsafe;

/** A number that is the same for two graphs of objects with the same classes and values that are connected in the same way. */
final class Fingerprint {
    private static final Unsafe UNSAFE = Shape.UNSAFE;

    private final IdentityTable objects = new IdentityTable();
    private long value;

    long of(Object root) {
        meet(root);
        for (int i = 0; i < objects.size(); i++) read(objects.get(i));
        return value;
    }

    private void add(long number) {
        value = (value ^ number) * 0x9E3779B97F4A7C15L;
        value ^= value >>> 29;
    }

    /** Add a reference: to a shared object by its value, to any other by its number. */
    private void meet(Object object) {
        if (object == null) {
            add(-1);
            return;
        }
        Class<?> type = object.getClass();
        if (!type.isArray() && Shape.of(type).shared) {
            add(type.getName().hashCode());
            if (object instanceof String || object instanceof Number || object instanceof Boolean || object instanceof Character)
                add(object.hashCode());
            return;
        }
        int number = objects.find(object);
        if (number < 0) {
            number = objects.add(object);
            add(type.getName().hashCode());
        }
        add(number);
    }

    private void read(Object object) {
        if (object instanceof Object[]) {
            for (Object item : (Object[]) object) meet(item);
        } else if (object.getClass().isArray()) {
            for (int i = 0; i < Array.getLength(object); i++) add(Array.get(object, i).hashCode());
        } else {
            Shape shape = Shape.of(object.getClass());
            for (long field : shape.longs) add(UNSAFE.getLong(object, field));
            for (long field : shape.integers) add(UNSAFE.getInt(object, field));
            for (long field : shape.shorts) add(UNSAFE.getShort(object, field));
            for (long field : shape.bytes) add(UNSAFE.getByte(object, field));
            for (long field : shape.references) meet(UNSAFE.getObject(object, field));
        }
    }
}
