package eexp;

import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.util.Arrays;
import sun.misc.Unsafe;

/**
 * Numbers for objects: 0 for the first that is added, 1 for the second, and so on.
 *
 * The JVM runs with -XX:hashCode=2, which gives all objects the same identity hash code. So an object is found by its
 * address. A garbage collection moves objects, and after one the table is filled anew: an entry that is found is right in
 * any case, since the objects themselves are compared; that there is none counts only if no collection has run since the
 * table was filled.
 */
final class IdentityTable {
    private static final Unsafe UNSAFE = Shape.UNSAFE;
    private static final long BASE = UNSAFE.arrayBaseOffset(Object[].class);
    private static final boolean NARROW = UNSAFE.arrayIndexScale(Object[].class) == 4;
    private static final GarbageCollectorMXBean[] COLLECTORS =
        ManagementFactory.getGarbageCollectorMXBeans().toArray(new GarbageCollectorMXBean[0]);

    private final Object[] holder = new Object[1];
    private Object[] objects = new Object[1 << 12];
    private int size;

    /** Open addressing: numbers of objects plus one, or 0. At most half of the slots are used. */
    private int[] slots = new int[2 * objects.length];
    private long collections = collections();

    int size() {
        return size;
    }

    Object get(int number) {
        return objects[number];
    }

    /** Return the number of an object, or -1. */
    int find(Object object) {
        while (true) {
            for (int slot = slot(object), entry; (entry = slots[slot]) != 0; slot = next(slot))
                if (objects[entry - 1] == object) return entry - 1;
            long now = collections();
            if (now == collections) return -1;
            collections = now;
            Arrays.fill(slots, 0);
            fill();
        }
    }

    /** Add an object that is not in the table, and return its number. */
    int add(Object object) {
        if (size == objects.length) {
            objects = Arrays.copyOf(objects, 2 * size);
            slots = new int[2 * objects.length];
            fill();
        }
        objects[size] = object;
        enter(size);
        return size++;
    }

    private void fill() {
        for (int number = 0; number < size; number++) enter(number);
    }

    private void enter(int number) {
        int slot = slot(objects[number]);
        while (slots[slot] != 0) slot = next(slot);
        slots[slot] = number + 1;
    }

    private int next(int slot) {
        return (slot + 1) & (slots.length - 1);
    }

    /** Return the slot at which the search for an object begins: a hash of its address. */
    private int slot(Object object) {
        holder[0] = object;
        long address = NARROW ? UNSAFE.getInt(holder, BASE) : UNSAFE.getLong(holder, BASE);
        return (int) ((address * 0x9E3779B97F4A7C15L) >>> 32) & (slots.length - 1);
    }

    /** Return how many garbage collections there have been. */
    private static long collections() {
        long sum = 0;
        for (GarbageCollectorMXBean collector : COLLECTORS) sum += collector.getCollectionCount();
        return sum;
    }
}
